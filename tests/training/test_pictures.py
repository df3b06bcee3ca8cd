from __future__ import annotations

import torch

from objemb.structures import Regions
from objemb.training.data.base import Example, Examples
from objemb.training.pictures import RIGHT, SIDE, WRONG, boxes_sheet, neighbours
from tests.tiny import plain_photo, random_photo


class Colours(Examples):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, number: int) -> Example:
        photo = plain_photo(8, 8, ((number + 1) * 50, 0, 0), id=str(number))
        return Example(photo, Regions(torch.tensor([[0.0, 0, 4, 4], [4, 4, 8, 8]]), (8, 8)))


def test_frames_tell_right_from_wrong() -> None:
    vectors = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1], [0.9, 0.1], [0.1, 0.9]])
    instances, images = torch.tensor([0, -1, 0, 1, 1, 2]), torch.tensor([0, 0, 1, 1, 2, 2])
    picture = neighbours(Colours(), vectors, instances, images, rows=1, columns=2)
    assert picture.shape == (3, SIDE, 3 * SIDE)
    assert picture.dtype == torch.uint8
    assert picture[0, SIDE // 2, SIDE // 2] == 50
    assert picture[:, 0, SIDE].tolist() == list(RIGHT)  # box 2, of the same instance
    assert picture[0, SIDE // 2, SIDE + SIDE // 2] == 100
    assert picture[:, 0, 2 * SIDE].tolist() == list(WRONG)  # box 4


def test_nothing_to_show() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    assert neighbours(Colours(), torch.zeros(0, 2), none, none, columns=2).shape == (3, SIDE, 3 * SIDE)


def test_boxes_are_drawn_where_they_are() -> None:
    photo = random_photo(40, 80)
    truth = Regions(torch.tensor([[0.0, 0, 40, 40], [3, 3, 3, 3]]), photo.size)
    found = Regions(torch.tensor([[60.0, 10, 70, 20], [0, 0, 80, 40]]), photo.size, scores=torch.tensor([0.9, 0.1]))
    sheet = boxes_sheet([(Example(photo, truth), found)])
    assert sheet.shape == (3, 320, 320)
    assert sheet[:, 80, 160].tolist() == [40, 170, 60], "right edge of the true box, at 4 times the size"
    assert sheet[:, 60, 240].tolist() == [200, 50, 40], "left edge of the box that was found"
    assert sheet[:, 250, 10].tolist() == [90, 90, 90]
