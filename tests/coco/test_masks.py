from __future__ import annotations

import numpy as np
import pytest

from objemb.coco.masks import decode_mask, encode_mask, mask_in_box

SIZE = (40, 60)
BOX = (10.0, 5.0, 38.0, 33.0)  # 28 x 28 pixels: a cell of the mask is a pixel


def test_runs_by_hand() -> None:
    mask = np.array([[0, 1, 1], [0, 0, 1]], dtype=bool)  # columns: 0 0 | 1 0 | 1 1
    assert encode_mask(mask) == {"size": [2, 3], "counts": [2, 1, 1, 2]}


def test_runs_begin_with_zeros_even_if_there_are_none() -> None:
    assert encode_mask(np.ones((2, 2), dtype=bool)) == {"size": [2, 2], "counts": [0, 4]}
    assert encode_mask(np.zeros((2, 2), dtype=bool)) == {"size": [2, 2], "counts": [4]}


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (16, 33)])
def test_masks_survive_their_runs_and_their_text_form(shape: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random(shape) < 0.4
    found = encode_mask(mask)
    assert (decode_mask(found, shape) == mask).all()
    assert (decode_mask({**found, "counts": in_text(found["counts"])}, shape) == mask).all()


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (16, 33)])
def test_runs_are_read_by_the_reference(shape: tuple[int, int]) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    mask = np.random.default_rng(0).random(shape) < 0.4
    assert (coco.decode(coco.frPyObjects(encode_mask(mask), *shape)) == mask).all()


def test_runs_of_an_image_that_fills_the_memory_are_refused() -> None:
    side = 1_000_000
    with pytest.raises(ValueError, match="at most 1073741824 pixels, found 1000000 x 1000000"):
        decode_mask({"size": [side, side], "counts": [0, side * side]}, (side, side))


def runs(raster: np.ndarray) -> list[int]:
    """Lengths of runs down the columns, beginning with background."""
    flat = raster.T.reshape(-1)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [2]])))
    return np.diff(np.concatenate([[0], edges])).tolist()


def in_text(counts: list[int]) -> str:
    """COCO's text form of runs, written from its description."""
    text = ""
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        while True:
            bits, value = value & 31, value >> 5
            done = value == (-1 if bits & 16 else 0)
            text += chr(bits + (0 if done else 32) + 48)
            if done:
                break
    return text


def random_raster(seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (generator.random(SIZE) < generator.random()).astype(np.uint8)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("form", [runs, lambda r: in_text(runs(r))])
def test_runs_give_the_pixels_of_the_box(seed: int, form) -> None:
    raster = random_raster(seed)
    mask = mask_in_box({"size": list(SIZE), "counts": form(raster)}, BOX, SIZE)
    assert np.array_equal(mask, raster[5:33, 10:38])


@pytest.mark.parametrize(("height", "wide"), [(56, 2), (84, 6), (28, 14)])
def test_a_cell_that_is_half_covered_counts(height: int, wide: int) -> None:
    width = 28 * wide
    raster = np.zeros((height, width), np.uint8)
    raster.reshape(height, 28, wide)[:, :, : wide // 2] = 1
    mask = mask_in_box({"size": [height, width], "counts": runs(raster)}, (0, 0, width, height), (height, width))
    assert mask.all()


@pytest.mark.parametrize("seed", range(5))
def test_runs_equal_those_of_the_reference(seed: int) -> None:
    reference = pytest.importorskip("pycocotools.mask")
    raster = random_raster(seed)
    encoded = reference.encode(np.asfortranarray(raster))
    segmentation = {"size": list(SIZE), "counts": encoded["counts"].decode()}
    assert np.array_equal(mask_in_box(segmentation, BOX, SIZE), raster[5:33, 10:38])


def test_cells_are_set_where_half_of_them_is_covered() -> None:
    raster = np.zeros(SIZE, dtype=np.uint8)
    raster[:, :24] = 1
    segmentation = {"size": list(SIZE), "counts": runs(raster)}
    mask = mask_in_box(segmentation, (10.0, 5.0, 66 - 28.0, 12.0), SIZE)
    assert bool((mask[:, :14] == 1).all() and (mask[:, 14:] == 0).all())
    wide = mask_in_box(segmentation, (0.0, 0.0, 56.0, 40.0), SIZE)  # a cell is two pixels wide
    assert bool((wide[:, :12] == 1).all() and (wide[:, 12:] == 0).all())
    narrow = mask_in_box(segmentation, (23.25, 3.0, 24.25, 4.0), SIZE)  # three quarters of a pixel-wide box
    assert bool((narrow[:, :21] == 1).all() and (narrow[:, 21:] == 0).all())


def test_polygons_are_united() -> None:
    left, right = [10, 5, 17, 5, 17, 33, 10, 33], [31, 5, 38, 5, 38, 33, 31, 33]
    mask = mask_in_box([left, right], BOX, SIZE)
    assert bool((mask[:, :7] == 1).all() and (mask[:, 7:21] == 0).all() and (mask[:, 21:] == 1).all())


def test_polygons_agree_with_the_reference() -> None:
    reference = pytest.importorskip("pycocotools.mask")
    angles = np.linspace(0, 2 * np.pi, 40)[:-1]
    circle = np.stack([24 + 13 * np.cos(angles), 19 + 11 * np.sin(angles)], axis=1).ravel().tolist()
    raster = reference.decode(reference.merge(reference.frPyObjects([circle], *SIZE)))
    mask = mask_in_box([circle], BOX, SIZE)
    assert int((mask != raster[5:33, 10:38]).sum()) <= 30  # of about 450: pixels on the border


def test_polygons_beyond_the_image_are_cut_off() -> None:
    mask = mask_in_box([[-1e8, -1e8, 1e8, -1e8, 1e8, 1e8, -1e8, 1e8]], (0.0, 0.0, 60.0, 40.0), SIZE)
    assert bool((mask == 1).all())


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "found NoneType"),
        ([], "found list"),
        ("text", "found str"),
        ({"counts": [1]}, "found dict"),
        ([[1, 2, 3, 4]], "at least three points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "at least three points"),
        ([[1, 2, 3, 4, 5, float("nan")]], "at least three points"),
        ([[1, 2, 3, 4, 5, "6"]], "at least three points"),
        ([None], "at least three points"),
        ([[0, 0, 0, 0, 0, 0]], "covers something"),
        ({"size": [60, 40], "counts": [2400]}, r"size \[40, 60\], found \[60, 40\]"),
        ({"size": [40, 60], "counts": [2400]}, "covers something"),
        ({"size": [40, 60], "counts": [2399]}, "add up to 2400"),
        ({"size": [40, 60], "counts": [0, 2401]}, "add up to 2400"),
        ({"size": [40, 60], "counts": [-1, 2401]}, "add up to 2400"),
        ({"size": [40, 60], "counts": [1.5, 2398.5]}, "add up to 2400"),
        ({"size": [40, 60], "counts": None}, "add up to 2400"),
        ({"size": [40, 60], "counts": ""}, "add up to 2400"),
        ({"size": [40, 60], "counts": "PPPP"}, "truncated"),
        ({"size": [40, 60], "counts": "\x00"}, "other characters"),
        ({"size": [40, 60], "counts": "\xff\x01"}, "other characters"),
        ({"size": [40, 60], "counts": "o" * 10_000}, "other characters"),
    ],
)
def test_other_segmentations_are_refused(segmentation, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mask_in_box(segmentation, BOX, SIZE)
