from __future__ import annotations

import numpy as np
import pytest
import torch

from objemb.evaluation.sizes import SIZE_KEYS, SIZES, UNKNOWN, side_share, side_shares, size_classes

NAN = float("nan")


def test_the_longer_side_counts_of_box_and_photo() -> None:
    boxes = [[0, 0, 10, 40], [10, 10, 90, 30], [0, 0, 200, 100], [5, 5, 5, 5], [NAN, 0, 1, 1]]
    shares = side_shares(boxes, (100, 200))  # height, width
    assert shares[:4].tolist() == [0.2, 0.4, 1.0, 0.0]
    assert np.isnan(shares[4])
    assert side_shares(boxes[:2], [(100, 200), (80, 40)]).tolist() == [0.2, 1.0]
    assert side_share((10, 10, 90, 30), (100, 200)) == 0.4


def test_tensors_are_taken_as_they_are() -> None:
    boxes = torch.tensor([[0.0, 0, 48, 10], [0, 0, 47.5, 47.5]])
    shares = side_shares(boxes, torch.tensor([384, 512]))
    assert shares.dtype == np.float64
    assert size_classes(shares).tolist() == [1, 0]


def test_classes_are_those_of_an_input_of_512_pixels_and_begin_at_their_lower_end() -> None:
    sides = np.array([0, 47.9, 48, 95.9, 96, 191.9, 192, 383.9, 384, 512, 513, NAN])
    assert size_classes(sides / 512).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4, UNKNOWN]
    assert size_classes([]).tolist() == []
    assert list(SIZES) == ["<9 %", "9-19 %", "19-38 %", "38-75 %", ">75 %"]
    assert list(SIZE_KEYS) == list(SIZES)


def test_nothing_is_normal() -> None:
    assert side_shares([], (10, 10)).shape == (0,)
    assert side_shares(np.zeros((0, 4)), np.zeros((0, 2))).shape == (0,)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"boxes: expected shape \(any, 4\), found \(4,\)"):
        side_shares([0, 0, 1, 1], (10, 10))
    with pytest.raises(ValueError, match=r"sizes: expected shape \(2\) or \(1, 2\), found \(2, 2\)"):
        side_shares([[0, 0, 1, 1]], [(10, 10), (10, 10)])
    with pytest.raises(ValueError, match="photos of at least one pixel, found 0"):
        side_shares([[0, 0, 1, 1]], (10, 0))
