"""Segmentations of COCO files: run-length encoding of masks, and polygons or runs as small masks over a box."""

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

#: Side of a mask, as in Mask R-CNN.
SIDE = 28
#: Polygons are drawn at this multiple of the mask's resolution, so that borders are accurate to a fraction of a cell.
OVERSAMPLING = 8
#: Tolerance with which a cell that is exactly half covered counts as covered, in spite of rounding.
ROUNDING = 1e-9
#: Runs of larger images are refused, since a single line of text could fill the memory.
MAX_PIXELS = 1 << 30


def encode_mask(mask: BoolArray) -> dict[str, object]:
    """COCO's uncompressed run-length encoding of a mask ``(h, w)``: ``{"size": [h, w], "counts": [...]}``.

    The runs are in column-major order and begin with a run of zeros, which may be empty.
    """
    flat = mask.T.reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate([[0] if not flat.size or not flat[0] else [0, 0], changes, [flat.size]])
    return {"size": list(mask.shape), "counts": np.diff(edges).tolist()}


def decode_mask(runs: Mapping[str, Any], size: tuple[int, int]) -> BoolArray:
    """Decode run lengths, as a list (see :func:`encode_mask`) or in COCO's text form, to a mask ``(h, w)``.

    Args:
        runs: ``{"size": [h, w], "counts": ...}``, possibly from an untrusted source.
        size: Expected ``(height, width)``.

    Raises:
        ValueError: The runs are invalid or have another size, or the size exceeds ``MAX_PIXELS``.
    """
    height, width = size
    if height * width > MAX_PIXELS:
        raise ValueError(f"expected runs of at most {MAX_PIXELS} pixels, found {width} x {height}")
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
    """The mask of an object within its box: a cell is set if at least half of it is covered.

    Args:
        segmentation: Polygons ``[[x1, y1, x2, y2, ...], ...]``, or runs ``{"size": [height, width], "counts": ...}``
            in column-major order, beginning with background, as a list or in COCO's text form.
        box: ``(x1, y1, x2, y2)`` in pixels, inside the image and not empty.
        size: ``(height, width)`` of the image.

    Returns:
        uint8 ``(28, 28)``, 0 or 1.

    Raises:
        ValueError: The segmentation has neither form, belongs to an image of another size, or covers nothing of the
            box.
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
    """A raster at the position ``frame`` (in cells of the mask), averaged over the cells."""
    shares = coverage(raster[None], np.array([frame]), (SIDE, SIDE))
    covered: BoolArray = shares[0] >= 0.5 - ROUNDING
    return covered.astype(np.uint8)


def _drawn(polygons: list[object], box: Sequence[float], size: tuple[int, int]) -> tuple[Uint8Array, list[float]]:
    """Polygons drawn on a canvas that covers the box, and its position in cells of the mask."""
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
    """The pixels that a box overlaps, and their position in cells of the mask."""
    x1, y1, x2, y2 = box
    left, top, right, bottom = math.floor(x1), math.floor(y1), math.ceil(x2), math.ceil(y2)
    across, down = SIDE / (x2 - x1), SIDE / (y2 - y1)
    frame = [(left - x1) * across, (top - y1) * down, (right - x1) * across, (bottom - y1) * down]
    return np.ascontiguousarray(mask[top:bottom, left:right]), frame


def _lengths(text: str) -> list[int]:
    """Run lengths in COCO's text form.

    Each character has five bits of a number, least significant first, and a flag whether more characters follow; the
    last character has the sign. From the fourth number on, each is the difference to the number two before it.
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
