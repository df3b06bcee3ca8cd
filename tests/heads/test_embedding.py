from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from objemb.heads import embedding
from objemb.heads.embedding import EmbeddingHead

CHANNELS, STRIDES = (4, 6), (4, 8)
BOXES = [
    torch.tensor([[0.0, 0, 40, 40], [3.5, 7, 21, 30], [40, 40, 40, 40]]),
    torch.zeros(0, 4),
    torch.tensor([[8.0, 8, 9, 9]]),
]


def head(**arguments: Any) -> EmbeddingHead:
    torch.manual_seed(0)
    return EmbeddingHead(CHANNELS, STRIDES, 5, **{"width": 16, "depth": 1, **arguments})


def pyramid(batch: int = 3, side: int = 40) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(batch, c, side // s, side // s, generator=generator) for c, s in zip(CHANNELS, STRIDES, strict=True)
    ]


def test_one_unit_vector_per_box_in_the_order_of_images() -> None:
    features, one = pyramid(), head()
    vectors = one(features, BOXES)
    assert vectors.shape == (4, 5)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(4))
    for i, rows in enumerate(vectors.split([3, 0, 1])):
        assert torch.allclose(one([f[i : i + 1] for f in features], BOXES[i : i + 1]), rows, atol=1e-6)


def test_it_is_the_figure_step_by_step() -> None:
    features, one = pyramid(), head()
    rois = torch.tensor([[0, *BOXES[0][0]], [0, *BOXES[0][1]], [0, *BOXES[0][2]], [2, *BOXES[2][0]]])
    fine = roi_align(features[0], rois, (7, 7), 1 / 4, 2, aligned=True)
    coarse = roi_align(features[1], rois, (7, 7), 1 / 8, 2, aligned=True)
    cells = torch.cat([fine, coarse], dim=1)
    for convolution, norm, _ in one.trunk:
        cells = F.group_norm(convolution(cells), 2, norm.weight, norm.bias).relu()
    pooled = torch.cat([cells.flatten(2).mean(2), cells.flatten(2).amax(2)], dim=1)
    expected = pooled @ one.project.weight.T + one.project.bias
    assert torch.allclose(one(features, BOXES, unit=False), expected, atol=1e-5)
    assert torch.allclose(one(features, BOXES), F.normalize(expected), atol=1e-5)


def test_boxes_are_in_pixels_of_the_input_by_the_declared_strides() -> None:
    """Each cell holds its own position, so that the samples of a box show where the head looks."""
    one = EmbeddingHead((2, 2), STRIDES, samples=1, width=8)
    levels = [
        torch.stack(torch.meshgrid(*[(torch.arange(40 // s) + 0.5) * s] * 2, indexing="xy"))[None] for s in STRIDES
    ]
    samples = one._samples(levels, torch.tensor([[0.0, 10, 6, 30, 18]])).flatten()
    assert torch.allclose(samples, torch.tensor([20.0, 12, 20, 12]))


def test_strides_are_not_guessed_from_shapes() -> None:
    features, one = pyramid(), head()
    padded = [F.pad(f, (0, 3, 0, 1)) for f in features]
    inside = [torch.tensor([[4.0, 4, 30, 30]])] * 3
    assert torch.allclose(one(padded, inside), one(features, inside), atol=1e-6)


def test_every_level_counts() -> None:
    features, one = pyramid(), head()
    for i in range(2):
        changed = [f + (i == j) * torch.randn_like(f) for j, f in enumerate(features)]
        assert not torch.allclose(one(changed, BOXES), one(features, BOXES), atol=1e-3)


def test_no_boxes_and_no_images() -> None:
    features, one = pyramid(), head()
    none = one(features, [torch.zeros(0, 4)] * 3)
    assert none.shape == (0, 5)
    none.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in one.parameters())
    assert one([f[:0] for f in features], []).shape == (0, 5)


def test_training_reaches_the_head_and_the_features() -> None:
    features, one = [f.requires_grad_() for f in pyramid()], head()
    assert one.training
    one(features, BOXES)[:, 0].sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in one.parameters())
    for level in features:
        assert level.grad is not None
        assert level.grad[0].any()
        assert not level.grad[1].any(), "an image without boxes"


def test_a_vector_depends_on_its_box_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    features, one = pyramid(), head()
    together = one(features, BOXES)
    assert torch.allclose(one.eval()(features, BOXES), together, atol=1e-6)
    monkeypatch.setattr(embedding, "BLOCK", 3)
    assert torch.allclose(one(features, BOXES), together, atol=1e-6)


def test_half_precision_does_not_move_boxes() -> None:
    """A coordinate of 1001 is not a number of bfloat16, whose neighbours there are 1000 and 1004."""
    one = EmbeddingHead((1,), (4,), samples=1, width=8)
    ramp = (torch.arange(300).float() + 0.5)[None, None, None].expand(1, 1, 4, 300) * 4
    roi = torch.tensor([[0.0, 1001, 4, 1003, 8]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert one._samples([ramp], roi).item() == pytest.approx(1002)
        vectors = one([ramp], [roi[:, 1:]])
    assert vectors.dtype == torch.float32
    assert torch.allclose(vectors.norm(dim=1), torch.ones(1))


def test_runs_where_the_features_are() -> None:
    one = head().to("meta")
    assert one([f.to("meta") for f in pyramid()], BOXES).device.type == "meta"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": (4,)}, r"one of each per level.*found \(4,\) and \(4, 8\)"),
        ({"in_channels": (), "strides": ()}, "at least one level"),
        ({"strides": (4, 0)}, "strides: expected a number above 0"),
        ({"dim": 0}, "dim: expected"),
        ({"width": 12}, "width: expected a multiple of 8, found 12"),
        ({"depth": -1}, "depth: expected"),
        ({"samples": 0}, "samples: expected"),
        ({"sampling_ratio": 0}, "sampling_ratio: expected"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EmbeddingHead(**{"in_channels": CHANNELS, "strides": STRIDES, **arguments})


def test_inputs_that_do_not_fit_are_named() -> None:
    features, one = pyramid(), head()
    with pytest.raises(ValueError, match="expected 2 levels, found 1"):
        one(features[:1], BOXES)
    with pytest.raises(ValueError, match=r"features\[0\]: expected shape \(3, 4, any, any\), found \(3, 6"):
        one(features[::-1], BOXES)
    with pytest.raises(ValueError, match=r"features\[0\]: expected shape \(2, "):
        one(features, BOXES[:2])
    with pytest.raises(ValueError, match=r"boxes\[1\]: expected shape \(any, 4\), found \(2, 5\)"):
        one(features, [BOXES[0], torch.zeros(2, 5), BOXES[2]])
