"""Local features, their regions, and visual words: the types."""

from __future__ import annotations

import numpy as np
import pytest

from objemb.structures import LocalFeatures, RegionFeatures, Regions, VisualWords, WordPlaces

SIZE = (100, 200)
POINTS = [[10.0, 20.0], [150.0, 90.0], [200.0, 100.0]]


def features() -> LocalFeatures:
    return LocalFeatures(SIZE, POINTS, np.eye(3, 4), scales=[1, 0.5, 2], sides=[8, 32, 16], strengths=[3.0, 2.0, 1.0])


def words(**changes: object) -> VisualWords:
    regions = Regions([[0, 0, 200, 100], [100, 50, 200, 100]], SIZE)
    fields: dict[str, object] = {
        "image": "a",
        "regions": regions,
        "dim": 9,
        "rows": np.array([0, 0, 1]),
        "words": np.array([2, 7, 2], np.int32),
        "residuals": np.array([[255, 128], [1, 0], [2, 0]], np.uint8),
        "weights": np.ones(3, np.float32),
        "scales": np.array([0.5, 1], np.float32),
    }
    return VisualWords(**{**fields, **changes})  # type: ignore[arg-type]


def test_boxes_of_features_are_clipped_squares_around_their_points() -> None:
    assert features().boxes.tolist() == [[6, 16, 14, 24], [134, 74, 166, 100], [192, 92, 200, 100]]
    assert features().boxes.dtype == np.float32


def test_features_are_inside_by_their_centres_edges_included() -> None:
    inside = features().inside(np.array([[0, 0, 10, 20], [150, 90, 200, 100], [0, 0, 1, 1]]))
    assert inside.tolist() == [[True, False, False], [False, True, True], [False, False, False]]


def test_features_are_picked_in_all_columns() -> None:
    picked = features()[[2, 0]]
    assert picked.points.tolist() == [[200, 100], [10, 20]]
    assert picked.strengths.tolist() == [1, 3]
    assert picked.sides.tolist() == [16, 8]
    assert picked.scales.tolist() == [2, 1]
    assert picked.vectors.argmax(axis=1).tolist() == [2, 0]


def test_no_features_are_a_normal_case() -> None:
    empty = LocalFeatures.empty(SIZE, 5)
    assert len(empty) == 0
    assert empty.dim == 5
    assert empty.boxes.shape == (0, 4)
    assert empty.inside(np.zeros((2, 4))).shape == (2, 0)
    of_regions = RegionFeatures.by_position("a", Regions.whole(SIZE), empty)
    assert of_regions.members.shape == (0, 2)
    assert of_regions.of_region(0).tolist() == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"points": [[201.0, 1.0]] * 3},
            r"points: expected points from 0 to \[200, 100\], found \[201.0, 1.0\] \(3 such",
        ),
        ({"points": [[np.nan, 1.0]] * 3}, "points: expected finite"),
        ({"vectors": np.eye(2)}, r"vectors: expected shape \(3, any\)"),
        ({"scales": [1, 0, 1]}, "scales: expected numbers above 0, found 0"),
        ({"sides": [1, 1]}, r"sides: expected shape \(3\)"),
        ({"size": (0, 5)}, "size: expected .height, width."),
    ],
)
def test_what_is_no_set_of_features_is_refused(changes: dict[str, object], message: str) -> None:
    fields = {"size": SIZE, "points": POINTS, "vectors": np.eye(3), **changes}
    with pytest.raises(ValueError, match=message):
        LocalFeatures(**fields)  # type: ignore[arg-type]


def test_features_belong_to_all_regions_around_them() -> None:
    regions = Regions([[0, 0, 200, 100], [100, 50, 200, 100], [0, 0, 1, 1]], SIZE)
    of_regions = RegionFeatures.by_position("a", regions, features())
    assert of_regions.members.tolist() == [[0, 0], [0, 1], [0, 2], [1, 1], [1, 2]]
    assert [of_regions.of_region(r).tolist() for r in range(3)] == [[0, 1, 2], [1, 2], []]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([[1, 0]], "expected regions below 1 and features below 3"),
        ([[0, 3]], "expected regions below 1 and features below 3"),
        ([[0, 1], [0, 1]], "expected pairs in ascending order"),
        ([[0, 2], [0, 1]], "expected pairs in ascending order"),
    ],
)
def test_wrong_members_are_refused(members: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RegionFeatures("a", Regions.whole(SIZE), features(), np.array(members))


def test_features_of_another_image_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected the image size \(9, 9\), found \(100, 200\)"):
        RegionFeatures.by_position("a", Regions.whole((9, 9)), features())


def test_rows_of_words_are_picked_with_their_words() -> None:
    second = words()[1]
    assert len(second) == 1
    assert second.words.tolist() == [2]
    assert second.rows.tolist() == [0]
    assert second.residuals.tolist() == [[2, 0]]
    assert second.scales.tolist() == [1]
    turned = words()[[1, 0]]
    assert turned.rows.tolist() == [0, 1, 1]
    assert turned.words.tolist() == [2, 2, 7]
    assert [len(row.words) for row in words()] == [2, 1]
    assert words().binary


def test_words_may_be_few() -> None:
    none = words()[[]]
    assert len(none) == 0
    assert len(none.words) == 0
    nothing = np.zeros(0)
    bare = words(
        rows=nothing.astype(np.int64),
        words=nothing.astype(np.int32),
        residuals=np.zeros((0, 9), np.float32),
        weights=nothing.astype(np.float32),
    )
    assert len(bare) == 2
    assert not bare.binary


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"residuals": np.zeros((3, 3), np.uint8)}, ValueError, r"residuals: expected shape \(3, 2\)"),
        ({"residuals": np.zeros((3, 2), np.float32)}, ValueError, r"residuals: expected shape \(3, 9\)"),
        ({"residuals": np.zeros((3, 9))}, TypeError, "residuals: expected uint8 or float32, found float64"),
        ({"words": np.array([2, 7, 2])}, TypeError, "words: expected int32, found int64"),
        ({"words": np.array([7, 2, 2], np.int32)}, ValueError, "expected ascending words"),
        ({"words": np.array([2, 2, 2], np.int32)}, ValueError, "expected ascending words"),
        ({"words": np.array([-1, 2, 2], np.int32)}, ValueError, "words from 0"),
        ({"rows": np.array([0, 1, 0])}, ValueError, "expected ascending words"),
        ({"rows": np.array([0, 0, 2])}, ValueError, "expected rows from 0 to 1"),
        ({"weights": np.array([1, np.inf, 1], np.float32)}, ValueError, "weights: expected finite"),
        ({"scales": np.ones(3, np.float32)}, ValueError, r"scales: expected shape \(2\)"),
        ({"dim": 0}, ValueError, "dim: expected"),
    ],
)
def test_words_that_do_not_fit_are_refused(changes: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        words(**changes)


def test_places_check_themselves() -> None:
    codes = np.zeros((2, 2), np.uint8)
    places = WordPlaces(np.array([3, 1], np.int32), np.ones((2, 2), np.float32), codes)
    assert len(places) == 2
    with pytest.raises(ValueError, match="words: expected numbers from 0, found -1"):
        WordPlaces(np.array([3, -1], np.int32), np.ones((2, 2), np.float32), codes)
    with pytest.raises(ValueError, match=r"points: expected shape \(2, 2\)"):
        WordPlaces(np.array([3, 1], np.int32), np.ones((2, 3), np.float32), codes)
    with pytest.raises(TypeError, match="points: expected float32, found float64"):
        WordPlaces(np.array([3, 1], np.int32), np.ones((2, 2)), codes)


def test_features_of_parts_of_an_image() -> None:
    (height, width), found = SIZE, features()
    moved = found.moved((width - 10, 3), (height + 20, width))
    np.testing.assert_array_equal(moved.points[:, 0], np.minimum(found.points[:, 0] + width - 10, width))
    np.testing.assert_array_equal(moved.points[:, 1], found.points[:, 1] + 3)
    np.testing.assert_array_equal(moved.vectors, found.vectors)
    assert moved.size == (height + 20, width)
    both = LocalFeatures.cat([LocalFeatures.empty(SIZE, found.dim), found, found[1:]])
    assert len(both) == 2 * len(found) - 1
    np.testing.assert_array_equal(both.strengths, [*found.strengths, *found.strengths[1:]])
    for wrong in ([], [found, LocalFeatures.empty(SIZE, found.dim + 1)], [found, moved]):
        with pytest.raises(ValueError, match=r"LocalFeatures\.cat: expected parts of one image size and length"):
            LocalFeatures.cat(wrong)
