from __future__ import annotations

import pytest
import torch

from objemb.ops.boxes import iou
from objemb.structures import Regions
from objemb.training.region_sampling import RegionSampling, region_weights

SIZE = (100, 200)
TRUTH = Regions(torch.tensor([[10.0, 10, 60, 40], [100, 20, 150, 90]]), SIZE, labels=torch.tensor([0, 1]))
FOUND = Regions(torch.tensor([[10.1, 10, 58, 39], [0, 0, 30, 30]]), SIZE, torch.tensor([0.9, 0.25]))


def boxes(guidance: RegionSampling, truth: Regions = TRUTH, *, variant: int = 0, photo: str = "a") -> Regions:
    return guidance.regions(photo, truth, variant, detections=FOUND, proposals=FOUND)


def test_true_boxes_and_the_whole_image() -> None:
    found = boxes(RegionSampling())
    assert found.boxes.tolist() == [*TRUTH.boxes.tolist(), [0, 0, 200, 100]]
    assert region_weights([found]).tolist() == [1, 1, 1]
    assert boxes(RegionSampling(whole_image=False)).boxes.tolist() == TRUTH.boxes.tolist()


def test_found_boxes_are_rounded_to_quarters_of_a_pixel() -> None:
    found = boxes(RegionSampling(("detections",), whole_image=False))
    assert found.boxes.tolist() == [[10, 10, 58, 39], [0, 0, 30, 30]]


def test_proposals_are_those_that_overlap_a_true_box() -> None:
    found = boxes(RegionSampling(("proposals",), whole_image=False))
    assert found.boxes.tolist() == [[10, 10, 58, 39]]
    assert len(boxes(RegionSampling(("proposals",), whole_image=False), Regions.empty(SIZE))) == 0
    assert len(boxes(RegionSampling(("ground_truth", "proposals", "detections")))) == 2 + 1 + 2 + 1


def test_jitter_moves_and_stretches_by_its_strength() -> None:
    guidance = RegionSampling(("jittered",), jitter=0.2, whole_image=False, variants=50)
    draws = torch.stack([torch.as_tensor(boxes(guidance, variant=v).boxes) for v in range(50)])
    truth = torch.as_tensor(TRUTH.boxes)
    sides, true_sides = draws[..., 2:] - draws[..., :2], truth[:, 2:] - truth[:, :2]
    assert (sides / true_sides).log().abs().max() <= 0.2001
    moved = ((draws[..., 2:] + draws[..., :2]) / 2 - (truth[:, 2:] + truth[:, :2]) / 2) / true_sides
    assert 0.1 < moved.abs().max() <= 0.2001
    assert len({tuple(d.flatten().tolist()) for d in draws}) == 50
    assert torch.equal(
        torch.as_tensor(boxes(RegionSampling(("jittered",), jitter=0.0, whole_image=False)).boxes),
        truth,
    )
    overlaps = torch.stack([iou(d, truth).diagonal() for d in draws])
    assert overlaps.min() > 0.4


def test_a_draw_is_a_function_of_seed_photo_and_variant() -> None:
    guidance = RegionSampling(("jittered",))
    first = boxes(guidance, variant=3)
    torch.manual_seed(1)
    assert torch.equal(torch.as_tensor(boxes(guidance, variant=3).boxes), torch.as_tensor(first.boxes))
    for other in (
        boxes(guidance, variant=4),
        boxes(guidance, variant=3, photo="b"),
        boxes(RegionSampling(("jittered",), seed=1), variant=3),
    ):
        assert not torch.equal(torch.as_tensor(other.boxes), torch.as_tensor(first.boxes))


def test_a_photo_with_500_boxes_gives_some_of_them() -> None:
    many = Regions(torch.tensor([[float(n % 100), 0, n % 100 + 50, 80] for n in range(500)]), SIZE)
    found = boxes(RegionSampling(max_boxes=16), many)
    assert len(found) == 17
    assert found.boxes[-1].tolist() == [0, 0, 200, 100]
    assert not torch.equal(
        torch.as_tensor(found.boxes), torch.as_tensor(boxes(RegionSampling(max_boxes=16), many, variant=1).boxes)
    )


def test_boxes_without_area_are_left_out() -> None:
    flat = Regions(torch.tensor([[5.0, 5, 5, 5], [5, 5, 50, 5.5], [200, 100, 200, 100], [0, 0, 1, 1]]), SIZE)
    assert boxes(RegionSampling(whole_image=False), flat).boxes.tolist() == [[0, 0, 1, 1]]


def test_weights() -> None:
    found = boxes(RegionSampling(("detections",), weighting="score", whole_weight=0.5))
    assert region_weights([found]).tolist() == [pytest.approx(0.9), 0.25, 0.5]
    found = boxes(RegionSampling(weighting="size", whole_image=False))
    assert region_weights([found]).tolist() == pytest.approx([(1500 / 20000) ** 0.5, (3500 / 20000) ** 0.5])
    empty = boxes(RegionSampling(whole_image=False), Regions.empty(SIZE))
    assert region_weights([empty, found]).shape == (2,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sources": ()}, "sources: expected a list of at least one"),
        ({"sources": ("detection",)}, "did you mean 'detections'"),
        ({"jitter": 2}, "jitter: expected a number from 0 to 1"),
        ({"variants": 0}, "variants"),
        ({"max_boxes": 0}, "max_boxes"),
        ({"weighting": "area"}, "weighting: expected one of 'uniform', 'score', 'size'"),
        ({"whole_weight": -1}, "whole_weight"),
    ],
)
def test_wrong_settings(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RegionSampling(**arguments)  # type: ignore[arg-type]


def test_what_the_detector_found_must_be_given() -> None:
    with pytest.raises(ValueError, match="expected detections of 'a', found none"):
        RegionSampling(("detections",)).regions("a", TRUTH, detections=None, proposals=None)
