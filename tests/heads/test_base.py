from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from objemb.heads import base
from objemb.heads.base import Head
from tests.tiny import TinyBackbone

LEVELS = {"fine": (2, 4), "coarse": (2, 8), "other": (3, 8)}


class Flat(Head):
    """The samples themselves."""

    def __init__(self, samples: Any = 1, sampling_ratio: Any = 2, levels: Any = None, anchor: str = "middle") -> None:
        super().__init__(samples, sampling_ratio, levels, anchor)

    def default_levels(self, pyramid: Any) -> Any:
        return pyramid

    def build(self) -> None:
        self.dim = sum(self.channels) * self.samples**2

    def pooled(self, samples: Tensor) -> Tensor:
        return samples.flatten(1)


def connected(**arguments: Any) -> Flat:
    head = Flat(**arguments)
    head.connect(LEVELS, ("fine", "coarse"))
    return head


def positions(anchor: str, side: int = 40) -> list[Tensor]:
    """Maps whose cells hold the place that they look at: x, y."""
    first = {"middle": 0.5, "corner": 0.0}[anchor]
    half = {"middle": 0.0, "corner": 0.5}[anchor]
    grids = [(torch.arange(side // stride) + first) * stride + half for _, stride in list(LEVELS.values())[:2]]
    return [torch.stack(torch.meshgrid(g, g, indexing="xy"))[None] for g in grids]


@pytest.mark.parametrize("anchor", ["middle", "corner"])
def test_boxes_are_in_pixels_of_the_input_by_the_declared_strides(anchor: str) -> None:
    """Each cell holds its own position, so that the samples of a box show where the head looks."""
    samples = connected(anchor=anchor)(positions(anchor), [torch.tensor([[10.0, 6, 30, 18]])], unit=False)
    assert samples.flatten().tolist() == pytest.approx([20, 12, 20, 12])


def test_strides_are_not_guessed_from_shapes() -> None:
    head, features, inside = connected(), positions("middle"), [torch.tensor([[4.0, 4, 30, 30]])]
    padded = [F.pad(f, (0, 3, 0, 1)) for f in features]
    assert torch.allclose(head(padded, inside), head(features, inside))


def test_levels_are_the_default_ones_or_those_asked_for_in_this_order() -> None:
    head = Flat()
    assert head.connect(LEVELS, ("fine", "coarse")) == ("fine", "coarse")
    assert (head.channels, head.strides) == ((2, 2), (4, 8))
    head = Flat(levels=["other", "fine"])
    assert head.connect(LEVELS, ("fine", "coarse")) == ("other", "fine")
    assert (head.channels, head.strides, head.dim) == ((3, 2), (8, 4), 5)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    head, features = connected(), positions("middle")
    boxes = [torch.tensor([[4.0, 4, 30, 30], [0, 0, 8, 8], [2, 2, 20, 30], [0, 0, 40, 40]])]
    together = head(features, boxes)
    monkeypatch.setattr(base, "BLOCK", 3)
    assert torch.equal(head(features, boxes), together)


def test_half_precision_does_not_move_boxes() -> None:
    """A coordinate of 1001 is not a number of bfloat16, whose neighbours there are 1000 and 1004."""
    head = Flat()
    head.connect({"0": (1, 4)}, ("0",))
    ramp = (torch.arange(300).float() + 0.5)[None, None, None].expand(1, 1, 4, 300) * 4
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = head([ramp], [torch.tensor([[1001.0, 4, 1003, 8]])], unit=False)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(1002)


def test_runs_where_the_features_are() -> None:
    assert connected()([f.to("meta") for f in positions("middle")], [torch.zeros(2, 4)]).device.type == "meta"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 0}, "samples: expected an integer of 1 or more, found 0"),
        ({"sampling_ratio": 1.5}, "sampling_ratio: expected an integer of 1 or more, found 1.5"),
        ({"levels": []}, "levels: expected a list of at least one item"),
        ({"levels": "fine"}, "levels: expected a list"),
        ({"levels": ["fin"]}, "levels: expected one of 'fine', 'coarse', 'other', found 'fin' .did you mean 'fine'"),
        ({"anchor": "left"}, "anchor: expected one of 'middle', 'corner', found 'left'"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        connected(**arguments)


def test_a_head_without_layers_of_a_teacher_cannot_start_from_one() -> None:
    with pytest.raises(TypeError, match=r"layers \(tail\), found Flat"):
        connected().initialise(TinyBackbone(), None)
