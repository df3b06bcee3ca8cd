from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from objemb.images.inputs import EncodedPhoto, as_encoded, as_photo, as_regions
from objemb.structures import Photo

SIZE = (100, 200)


@pytest.mark.parametrize(
    "boxes",
    [
        [(10, 20, 40, 60)],
        [[10.0, 20, 40, 60]],
        np.array([[10, 20, 40, 60]]),
        [np.array([10, 20, 40, 60])],
        torch.tensor([[10, 20, 40, 60]]),
        [torch.tensor([10.0, 20, 40, 60])],
        iter([(10, 20, 40, 60)]),
    ],
)
def test_boxes_of_many_types(boxes: Any) -> None:
    assert as_regions(boxes, SIZE).boxes.tolist() == [[10, 20, 40, 60]]


@pytest.mark.parametrize("boxes", [[], np.zeros((0, 4)), torch.zeros(0), ()])
def test_no_boxes(boxes: Any) -> None:
    assert as_regions(boxes, SIZE).boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("boxes", "found"),
    [
        (np.array([1, 2, 3, 4]), "found ndarray of shape (4,)"),
        (torch.tensor([1, 2, 3, 4]), "found Tensor of shape (4,)"),
        (np.array([["a", "b", "c", "d"]]), "found an array of <U1"),
        ((1, 2, 3, 4), "found 1"),
        ([(1, 2, 3)], "found (1, 2, 3)"),
        ([(1, 2, 3, None)], "found (1, 2, 3, None)"),
        ([None], "found None"),
        (None, "found None"),
        (["1234"], "found '1234'"),
        ("1,2,3,4", "found '1,2,3,4'"),
        ([(1, 2, 3, 10**400)], "found (1, 2, 3, 1000"),
    ],
)
def test_what_is_no_list_of_boxes(boxes: Any, found: str) -> None:
    expected = "boxes: expected rows of x1, y1, x2, y2 such as [(40, 60, 180, 220)], " + found
    with pytest.raises(ValueError, match=re.escape(expected)):
        as_regions(boxes, SIZE)


@pytest.mark.parametrize(
    ("box", "found"),
    [
        ((1, 2, 3, float("nan")), "found (1, 2, 3, nan)$"),
        ((1, 2, float("inf"), 4), "found (1, 2, inf, 4)$"),
        ((150, 50, 240, 90), "found (150, 50, 240, 90)$"),
        ((-5, 2, 30, 40), "found (-5, 2, 30, 40)$"),
        ((100, 50, 40, 30), "found (100, 50, 40, 30); as x, y, width, height it would be (100, 50, 140, 80)$"),
        (
            (0.25, 0.5, 0.75, 1),
            "found (0.25, 0.5, 0.75, 1); as fractions of its size it would be (50, 50, 150, 100)$",
        ),
    ],
)
def test_the_first_box_that_is_none_of_the_image_is_named(box: tuple[float, ...], found: str) -> None:
    with pytest.raises(ValueError, match="the image of 200 x 100, " + re.escape(found).replace(r"\$", "$")):
        as_regions([(1, 2, 3, 4), box], SIZE)


def test_a_tiny_image_has_tiny_boxes() -> None:
    assert as_regions([(0, 0, 1, 1)], (1, 2)).boxes.tolist() == [[0, 0, 1, 1]]


class Elsewhere(EncodedPhoto):
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    def decoded(self, side: int | None, part: float | None, max_pixels: int) -> Photo:
        self.asked.append((side, part, max_pixels))
        return Photo("elsewhere", np.zeros((3, 4, 5), np.uint8), (8, 10))


def test_a_photo_that_is_decoded_elsewhere() -> None:
    image = Elsewhere()
    assert as_encoded(image) is image
    photo = as_photo(image, 32, 7.5, 1000)
    assert (photo.id, photo.size) == ("elsewhere", (8, 10))
    assert image.asked == [(32, 7.5, 1000)]
