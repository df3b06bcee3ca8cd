"""Detects boxes of a file that are not x, y, width, height in pixels, but fractions of the image or corners."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: Upper limit of coordinates, larger than any photo. (A comparison with it also excludes NaN, and is safe for integers
#: of any length.)
LIMIT = 1e9
#: Boxes may leave their image by this fraction of its side and a pixel, since annotations and detections often do.
SLACK = 0.05
#: The unit is not pixels if at least this fraction of the boxes lies within the first pixel of their images.
FRACTIONS = 0.5
#: The boxes are corners if at least the first fraction of them is valid as corners, and the second fraction would
#: leave the image as widths and heights.
CORNERS, LEAVING = 0.99, 0.25


def expect_pixels(
    file: str, edges: Sequence[tuple[float, float, float, float]], sizes: Sequence[tuple[int, int] | None]
) -> None:
    """Check the unit of all boxes of a file together, since a single box does not show it.

    Args:
        file: Name of the file, for the message.
        edges: ``(x1, y1, x2, y2)`` of each box, read as x, y, width, height.
        sizes: ``(height, width)`` of the image of each box, None if the file does not give it.

    Raises:
        ValueError: The numbers are fractions of the image, from 0 to 1, or corners; the message says how to correct
            them.
    """
    if not edges:
        return
    boxes = np.array(edges, dtype=np.float64)
    x, y, width, height = boxes[:, 0], boxes[:, 1], boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    first = boxes.round(6).tolist()[0]
    read = "expected boxes as x, y, width, height in pixels"
    share = np.mean(np.abs(np.stack([x, y, width, height])).max(axis=0) <= 1 + SLACK)
    if share > FRACTIONS and not all(size is not None and max(size) <= 2 for size in sizes):
        raise ValueError(
            f"{file}: {read}, found fractions of the image, from 0 to 1, in {_part(share, len(boxes))}; multiply x and "
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
    """Whether a box ``(x1, y1, x2, y2)`` exceeds an image of ``(height, width)`` by more than :data:`SLACK`.

    Negative coordinates do not count, since they do not depend on the size of the image.
    """
    height, width = size
    return any(x2 > width * (1 + SLACK) + 1 or y2 > height * (1 + SLACK) + 1 for _, _, x2, y2 in edges)


def _part(share: float, count: int) -> str:
    return f"{round(share * count)} of {count} boxes"


def _raw(edges: Sequence[float]) -> str:
    x1, y1, x2, y2 = edges
    return f"[{x1:g}, {y1:g}, {x2 - x1:g}, {y2 - y1:g}]"
