from __future__ import annotations

import numpy as np
import pytest

from objemb.datasets.cleaning.boxes import geometric_medians, mapped_boxes, object_boxes
from objemb.datasets.cleaning.pairs import VerifiedPairs


def pairs(rows: list[tuple[int, int, int, list[list[float]], list[float], list[float]]]) -> VerifiedPairs:
    """From rows of (photo, photo, inliers, affine map, box, box)."""
    return VerifiedPairs(
        np.array([[a, b] for a, b, *_ in rows], np.int64),
        np.array([row[2] for row in rows], np.int64),
        np.array([row[3] for row in rows], np.float64),
        np.array([row[4:] for row in rows], np.float32),
    )


def test_the_median_of_a_group_is_not_the_mean() -> None:
    """On a line, the geometric median of three points is the middle one, that of weighted ones the heaviest half."""
    points = np.array([[0.0, 0], [1, 0], [10, 0], [5, 5], [0, 0], [8, 0]])
    weights = np.array([1.0, 1, 1, 2, 5, 1])
    medians = geometric_medians(points, weights, np.array([0, 3, 4]))
    np.testing.assert_allclose(medians, [[1, 0], [5, 5], [0, 0]], atol=0.15)


def test_it_is_where_the_sum_of_distances_is_least() -> None:
    rng = np.random.default_rng(0)
    points, weights = rng.normal(size=(9, 4)), rng.uniform(1, 5, 9)
    median = geometric_medians(points, weights, np.array([0]))[0]

    def total(place: np.ndarray) -> float:
        return float((weights * np.linalg.norm(points - place, axis=1)).sum())

    assert all(total(median) < total(median + step) for step in rng.normal(size=(200, 4)) * 0.05)


def test_boxes_through_maps_by_hand() -> None:
    boxes = np.array([[0.0, 0, 4, 2]] * 4)
    turned = 0.5**0.5
    maps = np.array(
        [
            [[1.0, 0, 10], [0, 1, 20]],
            [[2, 0, 0], [0, 3, 0]],
            [[0, -1, 0], [1, 0, 0]],  # by 90 degrees: (x, y) to (-y, x)
            [[turned, -turned, 0], [turned, turned, 0]],
        ]
    )
    mapped = mapped_boxes(boxes, maps)
    np.testing.assert_allclose(mapped[:3], [[10, 20, 14, 22], [0, 0, 8, 6], [-2, 0, 0, 4]], atol=1e-12)
    half = 2.5**0.5  # sqrt((4 + 1) / 2) on both axes, about the centre (2 - 1, 2 + 1) / sqrt(2)
    np.testing.assert_allclose(mapped[3], np.array([1, 3, 1, 3]) * turned + half * np.array([-1, -1, 1, 1]))


def test_a_turn_there_and_back_does_not_let_a_box_grow() -> None:
    box = np.array([[10.0, 10, 40, 40]])
    angle = 0.3
    turn = np.array([[[np.cos(angle), -np.sin(angle), 3], [np.sin(angle), np.cos(angle), 9]]])
    for _ in range(50):
        box = mapped_boxes(box, turn)
    np.testing.assert_allclose(box[:, 2:] - box[:, :2], [[30, 30]])


def test_a_partial_box_takes_the_size_that_its_neighbours_say() -> None:
    """Photos 0 to 3 show the object at the same place; photo 4 matched only a part of it."""
    same = [[1.0, 0, 0], [0, 1, 0]]
    full, part = [20.0, 20, 80, 80], [20.0, 20, 40, 40]
    rows = [(a, b, 30, same, full, full) for a in range(4) for b in range(a + 1, 4)]
    rows += [(a, 4, 10, same, part, part) for a in range(4)]
    result = object_boxes(np.array([[100, 100]] * 6), pairs(rows))
    np.testing.assert_allclose(result.start[4], part, atol=0.5)
    np.testing.assert_allclose(result.boxes[:5], [full] * 5, atol=4)
    assert result.settled
    assert result.boxes[5].tolist() == [0, 0, 100, 100], "without a pair it is the whole photo"


def test_maps_between_photos_of_different_scale() -> None:
    double = [[2.0, 0, 10], [0, 2, 0]]
    result = object_boxes(
        np.array([[100, 100], [200, 300]]), pairs([(0, 1, 20, double, [10, 10, 50, 50], [30, 20, 110, 100])])
    )
    np.testing.assert_allclose(result.boxes, [[10, 10, 50, 50], [30, 20, 110, 100]], atol=1e-3)


def test_maps_that_contradict_each_other_end_inside_the_photos() -> None:
    """Around a cycle of three photos, everything doubles."""
    double, same = [[2.0, 0, 0], [0, 2, 0]], [[1.0, 0, 0], [0, 1, 0]]
    box = [10.0, 10, 30, 30]
    rows = [(0, 1, 9, double, box, box), (1, 2, 9, double, box, box), (0, 2, 9, same, box, box)]
    result = object_boxes(np.array([[100, 100]] * 3), pairs(rows))
    assert np.isfinite(result.boxes).all()
    assert (result.boxes >= 0).all()
    assert (result.boxes <= 100).all()
    assert (result.boxes[:, :2] < result.boxes[:, 2:]).all()


@pytest.mark.parametrize("count", [0, 2])
def test_without_pairs(count: int) -> None:
    result = object_boxes(np.full((count, 2), 50), VerifiedPairs.empty())
    assert result.boxes.tolist() == [[0, 0, 50, 50]] * count
    assert (result.rounds, result.settled) == (0, True)
