"""What the numbers of a file's boxes are: x, y, width, height in pixels, or something else that is taken for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: Coordinates are below it: no photo has so many pixels on a side. (Compared with it, NaN is no coordinate either, and
#: integers of any length do no harm.)
LIMIT = 1e9
#: Boxes may leave their image by this share of its side, and by a pixel, as annotators and detectors have them.
SLACK = 0.05
#: A file is not in pixels where this share of its boxes lies in the first pixel of their images.
SHARES = 0.5
#: Boxes are corners where all but one in a hundred can be, and of this share the widths and heights leave the image.
CORNERS, LEAVING = 0.99, 0.25


def expect_pixels(
    file: str, edges: Sequence[tuple[float, float, float, float]], sizes: Sequence[tuple[int, int] | None]
) -> None:
    """Check all boxes of a file together: one alone does not show its unit.

    Args:
        file: What to call it.
        edges: ``(x1, y1, x2, y2)`` of each box, its numbers read as x, y, width, height.
        sizes: ``(height, width)`` of the image of each, as far as the file gives it.

    Raises:
        ValueError: The numbers are shares of the image, from 0 to 1, or corners; the message says how to correct it.
    """
    if not edges:
        return
    boxes = np.array(edges, dtype=np.float64)
    x, y, width, height = boxes[:, 0], boxes[:, 1], boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    first = boxes.round(6).tolist()[0]
    read = "expected boxes as x, y, width, height in pixels"
    share = np.mean(np.abs(np.stack([x, y, width, height])).max(axis=0) <= 1 + SLACK)
    if share > SHARES and not all(size is not None and max(size) <= 2 for size in sizes):
        raise ValueError(
            f"{file}: {read}, found shares of the image from 0 to 1 in {_part(share, len(boxes))}; multiply x and "
            f"width by the image's width, y and height by its height (the first box is {_raw(first)})"
        )
    known = np.array([size is not None for size in sizes])
    if not known.any():
        return
    sides = np.array([size for size in sizes if size is not None], dtype=np.float64)[:, ::-1]
    limit = sides * (1 + SLACK) + 1
    low, extent = np.stack([x, y], axis=1)[known], np.stack([width, height], axis=1)[known]
    corners = ((extent > low) & (extent <= limit)).all(axis=1)
    leaving = (low + extent > limit).any(axis=1)
    if corners.mean() >= CORNERS and leaving.mean() > LEAVING:
        raise ValueError(
            f"{file}: {read}, found corners x1, y1, x2, y2: read as width and height, the last two numbers "
            f"leave the image in {_part(leaving.mean(), len(leaving))} (the first box is {_raw(first)}); "
            "write x2 - x1 and y2 - y1 for them"
        )


def leaves(edges: Sequence[Sequence[float]], size: tuple[int, int]) -> bool:
    """Whether a box ``(x1, y1, x2, y2)`` reaches further beyond an image of ``(height, width)`` than :data:`SLACK`.

    Boxes that begin before the image say nothing about its size.
    """
    height, width = size
    return any(x2 > width * (1 + SLACK) + 1 or y2 > height * (1 + SLACK) + 1 for _, _, x2, y2 in edges)


def _part(share: float, count: int) -> str:
    return f"{round(share * count)} of {count} boxes"


def _raw(edges: Sequence[float]) -> str:
    x1, y1, x2, y2 = edges
    return f"[{x1:g}, {y1:g}, {x2 - x1:g}, {y2 - y1:g}]"
