from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from objemb.heads.embedding import EmbeddingHead

MINIMAL = {"dim": 6, "width": 8}

LEVELS = {"0": (4, 4), "1": (6, 8)}
BOXES = [
    torch.tensor([[0.0, 0, 40, 40], [3.5, 7, 21, 30], [40, 40, 40, 40]]),
    torch.zeros(0, 4),
    torch.tensor([[8.0, 8, 9, 9]]),
]


def connected(**arguments: Any) -> EmbeddingHead:
    torch.manual_seed(0)
    head = EmbeddingHead(**{"dim": 5, "width": 16, "depth": 1, **arguments})
    head.connect(LEVELS, ("0", "1"))
    return head


def pyramid(batch: int = 3, side: int = 40) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, c, side // s, side // s, generator=generator) for c, s in LEVELS.values()]


def test_it_is_the_figure_step_by_step() -> None:
    features, head = pyramid(), connected()
    rois = torch.tensor([[0, *BOXES[0][0]], [0, *BOXES[0][1]], [0, *BOXES[0][2]], [2, *BOXES[2][0]]])
    fine = roi_align(features[0], rois, (7, 7), 1 / 4, 2, aligned=True)
    coarse = roi_align(features[1], rois, (7, 7), 1 / 8, 2, aligned=True)
    cells = torch.cat([fine, coarse], dim=1)
    for convolution, norm, _ in head.trunk:
        cells = F.group_norm(convolution(cells), 2, norm.weight, norm.bias).relu()
    pooled = torch.cat([cells.flatten(2).mean(2), cells.flatten(2).amax(2)], dim=1)
    expected = pooled @ head.project.weight.T + head.project.bias
    assert torch.allclose(head(features, BOXES, unit=False), expected, atol=1e-5)
    assert torch.allclose(head(features, BOXES), F.normalize(expected), atol=1e-5)


def test_the_shortcut_is_the_mean_of_the_samples_beside_the_convolutions() -> None:
    features, with_shortcut, without = pyramid(), connected(shortcut=True), connected()
    samples = torch.cat([*with_shortcut.sampled(features, BOXES)])
    convolved = with_shortcut.trunk(samples)
    parts = [convolved.flatten(2).mean(2), convolved.flatten(2).amax(2), samples.flatten(2).mean(2)]
    pooled = torch.cat(parts, dim=1)
    assert torch.allclose(with_shortcut.pooled(samples), pooled, atol=1e-6)
    weight, bias = with_shortcut.project.weight, with_shortcut.project.bias
    assert torch.allclose(with_shortcut(features, BOXES, unit=False), pooled @ weight.T + bias, atol=1e-5)
    assert without.project.in_features == 2 * 16
    assert with_shortcut.project.in_features == 2 * 16 + 4 + 6


@pytest.mark.parametrize("shortcut", [False, True])
def test_every_level_and_every_parameter_counts(shortcut: bool) -> None:
    features, head = pyramid(), connected(shortcut=shortcut)
    for i in range(2):
        changed = [f + (i == j) * torch.randn_like(f) for j, f in enumerate(features)]
        assert not torch.allclose(head(changed, BOXES), head(features, BOXES), atol=1e-3)
    head(features, BOXES)[:, 0].sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in head.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 0}, "dim: expected"),
        ({"width": 12}, "width: expected a multiple of 8, found 12"),
        ({"depth": -1}, "depth: expected"),
        ({"shortcut": "yes"}, "shortcut: expected"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EmbeddingHead(**arguments)
