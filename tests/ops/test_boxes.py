from __future__ import annotations

import pytest
import torch

from objemb.ops import boxes as ops


def test_iou_by_hand() -> None:
    first = torch.tensor([[0.0, 0.0, 2.0, 2.0], [5.0, 5.0, 5.0, 5.0]])
    second = torch.tensor([[1.0, 1.0, 3.0, 3.0], [0.0, 0.0, 2.0, 2.0], [2.0, 0.0, 4.0, 2.0], [5.0, 5.0, 5.0, 5.0]])
    expected = torch.tensor([[1 / 7, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert torch.allclose(ops.iou(first, second), expected)


def test_boxes_in_pairs() -> None:
    first = torch.tensor([[0.0, 0, 4, 4], [0, 0, 2, 2], [1, 1, 1, 1]])
    second = torch.tensor([[2.0, 0, 6, 4], [2, 2, 3, 3], [1, 1, 1, 1]])
    assert ops.intersection(first, second).tolist() == [8, 0, 0]
    assert torch.allclose(ops.paired_iou(first, second), torch.tensor([8 / 24, 0, 0]))
    assert torch.equal(ops.paired_iou(first, second), ops.iou(first, second).diagonal())
    assert ops.intersection(first[:, None], second[None]).shape == (3, 3)


def test_iou_of_nothing() -> None:
    assert ops.iou(torch.zeros(0, 4), torch.zeros(3, 4)).shape == (0, 3)
    assert ops.iou(torch.zeros(3, 4), torch.zeros(0, 4)).shape == (3, 0)


def test_nms_drops_the_worse_of_two_and_sorts() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0], [0.0, 0.0, 10.0, 9.0]])
    scores = torch.tensor([0.5, 0.9, 0.8])
    assert ops.nms(boxes, scores, 0.5).tolist() == [1, 2]
    assert ops.nms(boxes, scores, 1.0).tolist() == [1, 2, 0]
    assert ops.nms(boxes[:0], scores[:0], 0.5).tolist() == []
    with pytest.raises(ValueError, match="max_iou: expected a number from 0 to 1, found 2"):
        ops.nms(boxes, scores, 2)


def test_clip_and_scale() -> None:
    boxes = torch.tensor([[-3.0, 2.0, 50.0, 40.0]])
    assert ops.clip(boxes, (30, 20)).tolist() == [[0, 2, 20, 30]]
    assert ops.scale(boxes, (2.0, 0.5)).tolist() == [[-1.5, 4, 25, 80]]


@pytest.mark.parametrize(
    ("box", "margin", "window"),
    [
        ((2.4, 3.6, 7.5, 8.4), 0.0, (2, 4, 8, 8)),
        ((10.0, 10.0, 20.0, 14.0), 0.5, (5, 8, 25, 16)),
        ((0.0, 0.0, 30.0, 20.0), 0.1, (0, 0, 30, 20)),  # nothing beyond the image
        ((30.0, 20.0, 30.0, 20.0), 0.0, (29, 19, 30, 20)),  # an empty box in the last corner
        ((4.2, 4.2, 4.3, 4.3), 0.0, (4, 4, 5, 5)),
    ],
)
def test_windows_hold_at_least_a_pixel_and_stay_inside(
    box: tuple[float, ...], margin: float, window: tuple[int, ...]
) -> None:
    assert tuple(ops.windows(torch.tensor([box]), (20, 30), margin)[0].tolist()) == window


def test_touched_cells_by_hand() -> None:
    boxes = torch.tensor(
        [
            [0.0, 0.0, 3.0, 2.0],  # whole cells stay as they are
            [0.99999, 1.00001, 2.00001, 1.99999],  # and float noise does not add any
            [0.5, 0.5, 1.5, 1.5],  # a part of a cell counts
            [5.0, 3.0, 5.0, 3.0],  # an empty box in the corner gets the last cell
            [4.2, 1.0, 7.0, 4.0],  # beyond the raster
        ]
    )
    expected = [[0, 0, 3, 2], [1, 1, 2, 2], [0, 0, 2, 2], [4, 2, 5, 3], [4, 1, 5, 3]]
    assert ops.touched_cells(boxes, (3, 5)).tolist() == expected
    assert ops.touched_cells(torch.zeros(0, 4), (3, 5)).shape == (0, 4)
