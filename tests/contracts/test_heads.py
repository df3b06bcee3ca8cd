"""Every head keeps to the contract of its kind."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from torch import Tensor

from objemb.heads.base import Head
from objemb.ops.ridge import ridge_map
from objemb.ops.tensors import l2
from tests.contracts.made import build, every, unit_or_zero


@every("heads")
class TestHeads:
    LEVELS = MappingProxyType({"0": (5, 4), "1": (5, 8), "trunk8": (8, 8)})
    BOXES = (
        torch.tensor([[0.0, 0, 40, 40], [3.5, 7, 21, 30], [40, 40, 40, 40]]),
        torch.zeros(0, 4),
        torch.tensor([[8.0, 8, 9, 9]]),
    )

    def head(self, name: str, folder: Path) -> tuple[Head, list[Tensor]]:
        """A head that is connected, and maps of three images of 40 x 48 pixels."""
        head = build("heads", name, folder)
        taken = head.connect(self.LEVELS, ("0", "1"))
        generator = torch.Generator().manual_seed(0)
        sizes = [(self.LEVELS[n][0], 40 // self.LEVELS[n][1], 48 // self.LEVELS[n][1]) for n in taken]
        return head, [torch.rand(3, *size, generator=generator) for size in sizes]

    def test_one_unit_vector_per_box_in_the_order_of_images(self, name: str, tmp_path: Path) -> None:
        head, features = self.head(name, tmp_path)
        vectors = head(features, self.BOXES)
        assert vectors.shape == (4, head.dim)
        assert vectors.dtype == torch.float32
        assert unit_or_zero(vectors)
        for i, rows in enumerate(vectors.split([3, 0, 1])):
            alone = head([f[i : i + 1] for f in features], self.BOXES[i : i + 1])
            assert torch.allclose(alone, rows, atol=1e-5), "a vector depends on its box alone"
        assert torch.allclose(l2(head(features, self.BOXES, unit=False)), vectors, atol=1e-5)

    def test_training_reaches_the_head_and_the_features(self, name: str, tmp_path: Path) -> None:
        head, features = self.head(name, tmp_path)
        before = head(features, self.BOXES)
        head.train()
        assert not any(m.training for m in head.modules())
        assert torch.equal(head(features, self.BOXES), before)
        for level in features:
            level.requires_grad_()
        head(features, self.BOXES)[:, 0].sum().backward()
        assert all(p.grad is not None for p in head.parameters())
        for level in features:
            assert level.grad is not None
            assert level.grad[0].any()
            assert not level.grad[1].any(), "an image without boxes"

    def test_the_last_layer_can_be_fitted(self, name: str, tmp_path: Path) -> None:
        head, features = self.head(name, tmp_path)
        pooled = head.vectors(head.sampled(features, self.BOXES), unit=False, projected=False)
        vectors = head(features, self.BOXES, unit=False)
        layer = head.expect_linear()
        assert torch.allclose(layer(pooled), vectors, atol=1e-5)
        targets = torch.randn(4, head.dim, generator=torch.Generator().manual_seed(0))
        before = {n: v.clone() for n, v in head.state_dict().items()}
        head.fit(pooled, targets, 1e-6)
        wanted = ridge_map(pooled, targets, 1e-6)(pooled)
        assert torch.allclose(head(features, self.BOXES, unit=False), wanted, atol=1e-3)
        changed = {n for n, v in head.state_dict().items() if not torch.equal(v, before[n])}
        assert changed == {"project.weight", "project.bias"}
        with pytest.raises(ValueError, match=r"pooled: expected shape \(any, \d+\)"):
            head.fit(pooled[:, 1:], targets, 1.0)
        with pytest.raises(ValueError, match=r"targets: expected shape \(4, \d+\)"):
            head.fit(pooled, targets[1:], 1.0)

    def test_no_boxes_and_no_images(self, name: str, tmp_path: Path) -> None:
        head, features = self.head(name, tmp_path)
        none = head(features, [torch.zeros(0, 4)] * 3)
        assert none.shape == (0, head.dim)
        none.sum().backward()
        assert all(p.grad is not None and not p.grad.any() for p in head.parameters()), "a training step like any other"
        assert head([f[:0] for f in features], []).shape == (0, head.dim)

    def test_mistakes_are_named(self, name: str, tmp_path: Path) -> None:
        head, features = self.head(name, tmp_path)
        with pytest.raises(ValueError, match=rf"expected {len(features)} levels, found {len(features) + 1}"):
            head([*features, features[0]], self.BOXES)
        with pytest.raises(ValueError, match=r"features\[0\]: expected shape \(3, \d, any, any\), found \(3, 9"):
            head([torch.zeros(3, 9, 5, 6), *features[1:]], self.BOXES)
        with pytest.raises(ValueError, match=r"boxes\[1\]: expected shape \(any, 4\), found \(2, 5\)"):
            head(features, [self.BOXES[0], torch.zeros(2, 5), self.BOXES[2]])
        with pytest.raises(RuntimeError, match="not connected yet"):
            head.connect(self.LEVELS, ("0", "1"))
