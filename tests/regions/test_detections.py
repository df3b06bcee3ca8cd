from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from objemb.detectors.base import Detector
from objemb.ops.grid import pixel_grid
from objemb.regions.detections import Detections
from objemb.structures import NO_LABEL, Photo, Regions
from tests.tiny import random_photo

SIZE = (60, 80)


class FixedDetector(nn.Module, Detector):
    """Finds the same boxes in every photo."""

    classes = ("cup", "box")

    def __init__(self, found: Regions) -> None:
        super().__init__()
        self.found = found
        self.scale = nn.Parameter(torch.ones(1))

    def detect(self, photos: Sequence[Photo]) -> list[Regions]:
        return [self.found for _ in photos]


def found(masks: bool = False) -> Regions:
    extras = {"masks": torch.eye(4, dtype=torch.uint8).repeat(4, 1, 1), "name": ("a", "b", "c", "d")} if masks else {}
    return Regions(
        boxes=torch.tensor([[0.0, 0, 10, 10], [30, 30, 50, 50], [0, 0, 10, 9], [60, 0, 80, 60]]),
        size=SIZE,
        scores=torch.tensor([0.9, 0.8, 0.7, 0.2]),
        labels=torch.tensor([0, 1, 1, 0]),
        classes=FixedDetector.classes,
        extras=extras,
    )


def find(source: Detections) -> Regions:
    photo = random_photo(*SIZE)
    return source.find([photo], [pixel_grid(photo.size)])[0]


def test_no_detector_is_the_whole_image() -> None:
    assert find(Detections()).boxes.tolist() == [[0, 0, 80, 60]]


def test_whole_image_first_then_the_best_of_every_object() -> None:
    regions = find(Detections(detector=FixedDetector(found())))
    assert regions.boxes.tolist() == [[0, 0, 80, 60], [0, 0, 10, 10], [30, 30, 50, 50]]
    assert torch.allclose(torch.as_tensor(regions.scores), torch.tensor([1.0, 0.9, 0.8]))
    assert regions.labels.tolist() == [NO_LABEL, 0, 1]
    assert regions.label_names == (None, "cup", "box")


def test_thresholds_and_limit() -> None:
    everything = find(Detections(detector=FixedDetector(found()), min_score=0, nms_iou=1))
    assert len(everything) == 5
    assert everything.scores.tolist() == sorted(everything.scores.tolist(), reverse=True)
    assert len(find(Detections(detector=FixedDetector(found()), max_regions=1))) == 2
    assert len(find(Detections(detector=FixedDetector(found()), min_score=0.95))) == 1
    logits = found()
    logits = replace(logits, scores=logits.scores - 2)
    assert len(find(Detections(detector=FixedDetector(logits), min_score=0, nms_iou=1))) == 1
    assert len(find(Detections(detector=FixedDetector(logits), min_score=None, nms_iou=1))) == len(logits) + 1
    with pytest.raises(ValueError, match="min_score: expected a number from 0 to 1, found 7"):
        Detections(min_score=7)
    assert len(find(Detections(detector=FixedDetector(found()), max_regions=0))) == 1, "the whole image alone"
    for wrong in (-1, 2.5):
        with pytest.raises(ValueError, match=f"max_regions: expected an integer of 0 or more, found {wrong}"):
            Detections(max_regions=wrong)


def test_decode_side_is_that_of_the_detector() -> None:
    detector = FixedDetector(found())
    assert Detections().decode_side() == Detections(detector=detector).decode_side() == 0
    detector.decode_side = lambda: 96  # type: ignore[method-assign]
    assert Detections(detector=detector).decode_side() == 96


def test_nothing_found() -> None:
    assert len(find(Detections(detector=FixedDetector(Regions.empty(SIZE))))) == 1


def test_extras_ride_along() -> None:
    regions = find(Detections(detector=FixedDetector(found(masks=True))))
    assert regions.extras["name"] == (None, "a", "b")
    assert np.array_equal(regions.array("masks")[0], np.ones((4, 4)))
    assert np.array_equal(regions.array("masks")[1], np.eye(4))


def test_the_network_of_a_detector_is_part_of_the_source() -> None:
    assert list(Detections(detector=FixedDetector(found())).state_dict()) == ["detector.scale"]
