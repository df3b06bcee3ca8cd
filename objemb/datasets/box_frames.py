"""Boxes of an evaluation set in the frames of their photos."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from objemb.images.decode import UnreadableImageError, read_photo
from objemb.images.names import find_spelled
from objemb.ops.frames import Frame, frame_in
from objemb.structures import BOX_TOLERANCE, Box


def fits(box: Box | None, size: tuple[int, int]) -> bool:
    """Whether a box is inside a photo of ``(height, width)``; True for None, the whole photo."""
    return box is None or (box[2] <= size[1] + BOX_TOLERANCE and box[3] <= size[0] + BOX_TOLERANCE)


def outside(size: tuple[int, int], box: Box | None) -> str:
    """The error of a box that does not fit."""
    height, width = size
    return f"expected boxes inside {width} x {height} pixels, found {box}"


class Frames:
    """Converts boxes that a set gives for another size of their photo to the frame of the photo.

    Args:
        sizes: ``(width, height)`` by file, if the set gives it.
        folder: The folder that files are relative to.

    Attributes:
        problems: A line for each photo whose size does not determine the frame of its boxes.
    """

    def __init__(self, sizes: Mapping[str, tuple[float, float]], folder: Path) -> None:
        self.problems: list[str] = []
        self._sizes, self._folder = sizes, folder
        self._frames: dict[str, Frame | None] = {}

    def place(self, file: str, box: Box) -> Box:
        """A box in pixels of its photo. Photos that cannot be read are reported when they are used."""
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
