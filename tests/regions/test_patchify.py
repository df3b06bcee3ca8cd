from __future__ import annotations

import pytest
import torch

from objemb.ops.boxes import iou
from objemb.regions.patchify import Patchify
from objemb.structures import NO_LABEL
from tests.tiny import plain_photo

GREY = (128, 128, 128)


def test_the_whole_image_then_finer_and_finer_grids() -> None:
    (regions,) = Patchify(levels=2).find([plain_photo(40, 60, GREY)])
    assert regions.boxes.tolist() == [
        [0, 0, 60, 40],
        [0, 0, 30, 20],
        [30, 0, 60, 20],
        [0, 20, 30, 40],
        [30, 20, 60, 40],
    ]
    assert set(regions.labels.tolist()) == {NO_LABEL}


def test_thirty_regions_by_default() -> None:
    for size in ((40, 60), (1, 1), (7, 1000)):
        (regions,) = Patchify().find([plain_photo(*size, GREY)])
        assert len(regions) == 30
        areas = (regions.boxes[:, 2:] - regions.boxes[:, :2]).prod(axis=1)
        assert areas[14:].sum() == pytest.approx(size[0] * size[1], rel=1e-5)
        boxes = torch.as_tensor(regions.boxes)[14:]
        assert float(iou(boxes, boxes).fill_diagonal_(0).max()) < 1e-5


def test_one_level_is_the_whole_image() -> None:
    assert len(Patchify(levels=1).find([plain_photo(3, 4, GREY)])[0]) == 1
    with pytest.raises(ValueError, match="levels: expected"):
        Patchify(levels=0)
