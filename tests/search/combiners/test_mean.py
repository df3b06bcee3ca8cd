from __future__ import annotations

import numpy as np

from objemb.search.combiners.mean import Mean


def none() -> np.ndarray:
    raise AssertionError("the index is not looked at")


def test_the_mean_of_two_directions_and_of_opposite_ones() -> None:
    views = np.array([[1, 0], [0, 1]], np.float32)
    assert np.allclose(Mean().combine(views, views[:0], none), [[0.5**0.5, 0.5**0.5]])
    opposite = np.array([[1, 0], [-1, 0]], np.float32)
    assert np.array_equal(Mean().combine(opposite, views[:0], none), [[0, 0]])
