"""Boxes of an evaluation set, and the photos that they lie in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from objemb.images.decode import UnreadableImageError, read_photo
from objemb.images.names import find_spelled
from objemb.ops.frames import Frame, frame_in
from objemb.structures import BOX_TOLERANCE, Box


def fits(box: Box | None, size: tuple[int, int]) -> bool:
    """Whether a box lies in a photo of ``(height, width)``; None, the whole photo, does."""
    return box is None or (box[2] <= size[1] + BOX_TOLERANCE and box[3] <= size[0] + BOX_TOLERANCE)


def outside(size: tuple[int, int], box: Box | None) -> str:
    """The error of a box that does not fit."""
    height, width = size
    return f"expected boxes inside {width} x {height} pixels, found {box}"


class Frames:
    """Brings boxes that a set gives for another size of their photo into the frame of the photo.

    Args:
        sizes: ``(width, height)`` by file, where the set gives it.
        folder: What files are relative to.

    Attributes:
        problems: A line for each photo whose size does not say how its boxes lie in it.
    """

    def __init__(self, sizes: Mapping[str, tuple[float, float]], folder: Path) -> None:
        self.problems: list[str] = []
        self._sizes, self._folder = sizes, folder
        self._frames: dict[str, Frame | None] = {}

    def place(self, file: str, box: Box) -> Box:
        """A box in pixels of its photo. One that cannot be read, or is not there, is told when it is looked at."""
        if file not in self._sizes:
            return box
        if file not in self._frames:
            self._frames[file] = self._frame(file)
        frame = self._frames[file]
        if frame is None or frame.size == frame.target:
            return box
        x1, y1, x2, y2 = frame.boxes(np.array([box], dtype=np.float64))[0].tolist()
        return (x1, y1, x2, y2)

    def _frame(self, file: str) -> Frame | None:
        width, height = self._sizes[file]
        try:
            photo = read_photo(self._folder / find_spelled(self._folder, file)[0], id=file, side=1)
            return frame_in(photo, (round(height), round(width)))
        except UnreadableImageError:
            return None
        except ValueError as error:
            self.problems.append(f"boxes of {file}: {error}")
            return None
