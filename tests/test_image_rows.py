from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from objemb.structures import ImageRows, RegionDescriptors, Regions


def described(image: str, rows: int, size: tuple[int, int] = (20, 30)) -> RegionDescriptors:
    boxes = np.array([[n, 0, n + 5, 10] for n in range(rows)], np.float32).reshape(-1, 4)
    return RegionDescriptors(image, Regions(boxes, size), np.full((rows, 2), len(image), np.float32))


@pytest.fixture
def rows() -> ImageRows:
    """Images of two, no, one and no rows."""
    return ImageRows.from_descriptors({2: described("x", 1, (12, 9)), 0: described("yy", 2)}, 2, ["a", "b", "c", "d"])


def test_rows_of_some_images_in_any_order(rows: ImageRows) -> None:
    assert rows.images == ("a", "b", "c", "d")
    assert rows.items.tolist() == [0, 0, 2]
    assert rows.vectors.tolist() == [[2, 2], [2, 2], [1, 1]]
    assert rows.boxes.tolist() == [[0, 0, 5, 10], [1, 0, 6, 10], [0, 0, 5, 10]]
    assert rows.sizes is not None
    assert rows.sizes.tolist() == [[20, 30], [20, 30], [12, 9]]
    assert rows.dim == 2


def test_rows_of_a_list_have_its_ids() -> None:
    rows = ImageRows.from_descriptors([described("q", 1), described("q", 0), described("r", 2)], 2)
    assert (rows.images, rows.items.tolist()) == (("q", "q", "r"), [0, 2, 2])


def test_nothing_has_shape() -> None:
    none = ImageRows.from_descriptors([], 7)
    assert (none.vectors.shape, none.items.shape, none.boxes.shape, none.starts.tolist()) == ((0, 7), (0,), (0, 4), [0])
    unknown = ImageRows.from_descriptors({}, 7, ["a"])
    assert unknown.starts.tolist() == [0, 0]
    assert unknown.rows_of(np.array([0])).tolist() == []


def test_where_the_rows_of_an_image_are(rows: ImageRows) -> None:
    assert rows.starts.tolist() == [0, 2, 2, 3, 3]
    assert rows.rows_of(np.array([2, 1, 0, 3, 2])).tolist() == [2, 0, 1, 2]
    assert rows.rows_of(np.zeros(0, np.int64)).tolist() == []


def test_a_run_of_images_is_a_view(rows: ImageRows) -> None:
    some = rows.of_images(1, 3)
    assert (some.images, some.items.tolist(), some.vectors.tolist()) == (("b", "c"), [1], [[1, 1]])
    assert some.sizes is not None
    assert some.sizes.tolist() == [[12, 9]]
    assert np.shares_memory(some.vectors, rows.vectors)


def test_the_descriptors_of_an_image(rows: ImageRows) -> None:
    first = rows.descriptors(0)
    assert (first.image, first.regions.size, first.regions.boxes.tolist()) == ("a", (20, 30), rows.boxes[:2].tolist())
    assert first.vectors.tolist() == [[2, 2], [2, 2]]
    assert len(rows.descriptors(1)) == 0


def test_where_sizes_are_not_known_the_boxes_fit_in() -> None:
    boxes = np.array([[0, 0, 5.5, 10], [1, 2, 7.2, 9]], np.float32)
    rows = ImageRows(("a",), np.zeros((2, 1), np.float32), np.zeros(2, np.int64), boxes)
    assert rows.descriptors(0).regions.size == (10, 8)
    assert rows.of_images(0, 1).sizes is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vectors": np.zeros((2, 3))}, r"ImageRows.vectors: expected float32 \(R, D\), found float64 \(2, 3\)"),
        ({"vectors": np.zeros(2, np.float32)}, r"ImageRows.vectors: expected float32 \(R, D\), found float32 \(2,\)"),
        ({"boxes": np.zeros((2, 3), np.float32)}, r"ImageRows.boxes: expected shape \(2, 4\), found \(2, 3\)"),
        ({"items": np.zeros(2)}, r"ImageRows.items: expected int64 \(2,\), found float64 \(2,\)"),
        ({"items": np.array([1, 0])}, "ImageRows.items: expected ascending numbers below 2"),
        ({"items": np.array([0, 2])}, "ImageRows.items: expected ascending numbers below 2"),
        ({"items": np.array([-1, 0])}, "ImageRows.items: expected ascending numbers below 2"),
        ({"sizes": np.zeros((1, 2), np.int64)}, r"ImageRows.sizes: expected shape \(2, 2\), found \(1, 2\)"),
    ],
)
def test_rows_that_do_not_fit_together(change: dict[str, Any], message: str) -> None:
    good = {
        "images": ("a", "b"),
        "vectors": np.zeros((2, 3), np.float32),
        "items": np.array([0, 1]),
        "boxes": np.zeros((2, 4), np.float32),
    }
    with pytest.raises(ValueError, match=message):
        ImageRows(**{**good, **change})
