from __future__ import annotations

import math

import pytest

from objemb.evaluation.region_recall import region_recall
from objemb.structures import Regions

SIZE = (100, 100)


def regions(*boxes: tuple[float, float, float, float], size: tuple[int, int] = SIZE) -> Regions:
    return Regions(list(boxes) or [(0, 0, 0, 0)], size)[: len(boxes)]


def test_by_hand() -> None:
    """The box of the first photo is covered by its second region (IoU 0.6) and better by its third (0.9); that of the
    second photo by its first; a third photo has no regions."""
    found = [
        regions((0, 0, 100, 100), (0, 0, 60, 10), (0, 0, 90, 10)),
        regions((0, 0, 50, 50)),
        regions(),
    ]
    truth = [regions((0, 0, 100, 10)), regions((0, 0, 50, 50)), regions((5, 5, 20, 20))]
    recall = region_recall(found, truth, counts=(1, 2, 3, 256), ious=(0.5, 0.7))
    assert recall[0.5] == pytest.approx([1 / 3, 2 / 3, 2 / 3, 2 / 3])
    assert recall[0.7] == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3])


def test_photos_without_true_boxes_do_not_count() -> None:
    truth = [regions(), regions((0, 0, 10, 10))]
    found = [regions((0, 0, 10, 10)), regions((0, 0, 10, 10))]
    assert region_recall(found, truth, counts=(1,)) == {0.5: [1.0], 0.7: [1.0]}
    assert math.isnan(region_recall([], [], counts=(1,))[0.5][0])


def test_other_photos_are_named() -> None:
    with pytest.raises(ValueError, match="regions: expected the photos of the truth, found 1"):
        region_recall([regions((0, 0, 1, 1))], [regions((0, 0, 1, 1), size=(50, 50))])
