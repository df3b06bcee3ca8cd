"""All problems of a file of ground truth in one message."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from objemb import checks
from objemb.images.decode import UnreadableImageError, read_photo
from objemb.structures import Box, are_fractions

#: Boxes may extend beyond their photo by this many pixels, and are clipped.
BOX_SLACK = 1.0
#: Upper limit of coordinates. (A comparison with it also excludes NaN, and is safe for integers of any length.)
LIMIT = 1e9


class BadGroundTruthError(checks.ObjembError):
    """Ground truth contradicts itself or the images. The message names the file and its entries."""


class Problems:
    """Collects the problems of a file, so that they can be reported together.

    .. code-block:: python

        with Problems(file) as problems:
            problems.add("gnd[3]", "expected ..., found ...")

    Leaving the block raises :class:`BadGroundTruthError` if there are problems.

    Args:
        source: The file, or the folder of the files that the entries name.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self._lines: list[str] = []

    def __enter__(self) -> Problems:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            self.check()

    def add(self, entry: str, text: str) -> None:
        """Add a problem: the entry, and a text with what was expected and found."""
        self._lines.append(f"{entry}: {text}")

    def check(self) -> None:
        """Raise :class:`BadGroundTruthError` if there are problems."""
        if self._lines:
            raise BadGroundTruthError(f"{self.source}: expected sound ground truth, found{checks.lines(self._lines)}")

    def box(self, entry: str, values: Sequence[float], photo: Path) -> Box | None:
        """A box ``(x1, y1, x2, y2)`` inside its photo, or None and a problem.

        A box that extends beyond the photo by at most :data:`BOX_SLACK` is clipped.
        """
        try:
            height, width = read_photo(photo, side=1).size
        except UnreadableImageError as error:
            self.add(entry, f"expected a photo that can be read, found {photo.name}: {error.reason}")
            return None
        return self.box_within(entry, values, width, height)

    def box_within(self, entry: str, values: Sequence[float], width: int, height: int) -> Box | None:
        """A box inside a photo of a known size in pixels, or None and a problem."""
        if len(values) != 4 or not all(abs(v) < LIMIT for v in values):
            self.add(entry, f"expected a box as four numbers x1 y1 x2 y2, found {list(values)}")
            return None
        x1, y1, x2, y2 = (float(v) for v in values)
        inside = min(x1, y1) >= -BOX_SLACK and x2 <= width + BOX_SLACK and y2 <= height + BOX_SLACK
        if are_fractions(values, (width, height)):
            self.add(entry, f"expected a box in pixels, found fractions of the photo, from 0 to 1: {list(values)}")
            return None
        box = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
        if not inside or box[0] >= box[2] or box[1] >= box[3]:
            self.add(entry, f"expected a box x1 < x2, y1 < y2 inside {width} x {height} pixels, found {list(values)}")
            return None
        return box

    def once(self, entry: str, lists: Mapping[str, Sequence[str]]) -> None:
        """Check that each image occurs in one list, once."""
        for name, count in Counter(name for listed in lists.values() for name in listed).items():
            if count > 1:
                inside = checks.listed(grade for grade, listed in lists.items() if name in listed)
                self.add(entry, f"expected each image once, found {name!r} {count} times (in {inside})")

    def positives(self, entry: str, lists: Mapping[str, Sequence[str]], grades: Sequence[str]) -> None:
        """Check that there is at least one positive."""
        if not any(lists.get(grade) for grade in grades):
            self.add(entry, f"expected at least one image in {checks.listed(grades)}, found none")
