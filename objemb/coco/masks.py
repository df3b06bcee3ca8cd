"""Segmentations of COCO files: run lengths of masks, and polygons and runs as small masks over a box."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from objemb import checks
from objemb.coco.units import LIMIT
from objemb.ops.masks import coverage
from objemb.types import BoolArray, Float64Array, Uint8Array

#: Side of a mask, as Mask R-CNN has it.
SIDE = 28
#: Polygons are drawn this much larger than the mask, so that its borders are right to a fraction of a cell.
OVERSAMPLING = 8
#: A cell of which exactly half is covered counts as covered, whatever rounding made of it.
ROUNDING = 1e-9
#: Runs of larger images are refused: a line of text could fill the memory.
MOST_PIXELS = 1 << 30


def encode_mask(mask: BoolArray) -> dict[str, object]:
    """COCO's uncompressed run lengths of a ``(h, w)`` mask: ``{"size": [h, w], "counts": [...]}``.

    The runs go down the columns, from left to right, and begin with the zeros (perhaps none of them).
    """
    flat = mask.T.reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate([[0] if not flat.size or not flat[0] else [0, 0], changes, [flat.size]])
    return {"size": list(mask.shape), "counts": np.diff(edges).tolist()}


def decode_mask(runs: Mapping[str, Any], size: tuple[int, int]) -> BoolArray:
    """The mask ``(h, w)`` of run lengths, as :func:`encode_mask` has them or in COCO's text form.

    Args:
        runs: ``{"size": [h, w], "counts": ...}``, perhaps written by a stranger.
        size: ``(height, width)`` that they must fill exactly.

    Raises:
        ValueError: They are not runs of this size, or the size is above ``MOST_PIXELS``.
    """
    height, width = size
    if height * width > MOST_PIXELS:
        raise ValueError(f"expected runs of at most {MOST_PIXELS} pixels, found {width} x {height}")
    if runs["size"] != [height, width]:
        raise ValueError(f"expected runs of size {[height, width]}, found {checks.short(runs['size'])}")
    counts = runs["counts"]
    lengths = _lengths(counts) if isinstance(counts, str) else counts
    whole = isinstance(lengths, list) and all(type(n) is int and 0 <= n <= height * width for n in lengths)
    if not whole or sum(lengths) != height * width:
        raise ValueError(f"expected runs that add up to {height * width} pixels, found others")
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(width, height).T


def mask_in_box(segmentation: object, box: Sequence[float], size: tuple[int, int]) -> Uint8Array:
    """The mask of an object, stretched over its box: a cell is set where at least half of it is covered.

    Args:
        segmentation: Polygons ``[[x1, y1, x2, y2, ...], ...]``, or runs ``{"size": [height, width], "counts": ...}``
            down the columns, beginning with background, as a list or in COCO's text form.
        box: ``(x1, y1, x2, y2)`` in pixels, inside the image and not empty.
        size: ``(height, width)`` of the image.

    Returns:
        uint8 ``(28, 28)``, 0 or 1.

    Raises:
        ValueError: The segmentation is of neither form, does not belong to an image of this size, or covers nothing.
    """
    if isinstance(segmentation, list) and segmentation:
        mask = _sampled(*_drawn(segmentation, box, size))
    elif isinstance(segmentation, Mapping) and {"size", "counts"} <= set(segmentation):
        mask = _sampled(*_cut(decode_mask(segmentation, size).view(np.uint8), box))
    else:
        raise ValueError(f"expected polygons or runs, found {type(segmentation).__name__}")
    if not mask.any():
        raise ValueError("expected a segmentation that covers something of its box, found none")
    return mask


def _sampled(raster: Uint8Array, frame: list[float]) -> Uint8Array:
    """A raster that lies at ``frame`` (in cells of the mask), averaged over these cells."""
    shares = coverage(raster[None], np.array([frame]), (SIDE, SIDE))
    covered: BoolArray = shares[0] >= 0.5 - ROUNDING
    return covered.astype(np.uint8)


def _drawn(polygons: list[object], box: Sequence[float], size: tuple[int, int]) -> tuple[Uint8Array, list[float]]:
    """Polygons on a canvas that spans the box."""
    canvas = Image.new("L", (SIDE * OVERSAMPLING, SIDE * OVERSAMPLING))
    draw = ImageDraw.Draw(canvas)
    corner, extent = np.array(box[:2]), np.array([box[2] - box[0], box[3] - box[1]])
    for polygon in polygons:
        points = _points(polygon).clip(0, [size[1], size[0]])
        on_canvas = (points - corner) / extent * canvas.width - 0.5  # Pillow counts from pixel centres
        draw.polygon([(float(x), float(y)) for x, y in on_canvas], fill=1)
    return np.array(canvas), [0.0, 0.0, SIDE, SIDE]


def _points(polygon: object) -> Float64Array:
    if (
        not isinstance(polygon, list)
        or not all(isinstance(v, (int, float)) and abs(v) < LIMIT for v in polygon)
        or len(polygon) < 6
        or len(polygon) % 2
    ):
        raise ValueError("expected polygons of at least three points x, y")
    return np.array(polygon, dtype=np.float64).reshape(-1, 2)


def _cut(mask: Uint8Array, box: Sequence[float]) -> tuple[Uint8Array, list[float]]:
    """The whole pixels that a box touches, and where they lie in cells of the mask."""
    x1, y1, x2, y2 = box
    left, top, right, bottom = math.floor(x1), math.floor(y1), math.ceil(x2), math.ceil(y2)
    across, down = SIDE / (x2 - x1), SIDE / (y2 - y1)
    frame = [(left - x1) * across, (top - y1) * down, (right - x1) * across, (bottom - y1) * down]
    return np.ascontiguousarray(mask[top:bottom, left:right]), frame


def _lengths(text: str) -> list[int]:
    """Runs from COCO's text form.

    Each character carries five bits, least significant first, a flag that says whether more follow, and in the last one
    the sign; from the fourth on, a number is the difference to the one before the last.
    """
    numbers, value, shift = [], 0, 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("expected runs in COCO's text form, found other characters")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            numbers.append(value - (1 << shift) if bits & 16 else value)
            value, shift = 0, 0
    if shift:
        raise ValueError("expected runs in COCO's text form, found a truncated one")
    even, odd = numbers[2::2], numbers[1::2]
    lengths = numbers[:]
    lengths[2::2] = list(accumulate(even))
    lengths[1::2] = list(accumulate(odd))
    return lengths
