"""Box-source ablation: the same method with true boxes, detected boxes, a rigid grid, or the whole photo only, and with
a limited number of boxes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch

from objemb import checks
from objemb.datasets.box_frames import fits, outside
from objemb.datasets.evaluation_set import EvaluationSet
from objemb.detectors.base import Detector
from objemb.regions.rmac_grid import RmacGrid
from objemb.structures import Box, Photo, Regions

#: ``detector`` is the method's own, or the boxes given to it.
GROUND_TRUTH, DETECTOR, GRID, WHOLE = "ground_truth", "detector", "grid", "whole"
SOURCES = (GROUND_TRUTH, DETECTOR, GRID, WHOLE)


class TrueBoxes(Detector):
    """The true boxes of an evaluation set's objects.

    Args:
        data: The set. Photos are identified by their file in the set.

    Raises:
        ValueError: The set has no objects.
    """

    def __init__(self, data: EvaluationSet) -> None:
        if not data.objects:
            raise ValueError(f"{data.path}: expected 'objects' with boxes for {GROUND_TRUTH}, found none")
        self._problems: dict[tuple[str, str], None] = {}
        self._boxes: dict[str, list[Box]] = defaultdict(list)
        for entry in data.objects:
            if entry.box is not None and entry.box not in self._boxes[entry.file]:
                self._boxes[entry.file].append(entry.box)

    def detect(self, photos: Sequence[Photo]) -> list[Regions]:
        """See :meth:`Detector.detect`. A box that leaves its photo is skipped and reported in :attr:`problems`."""
        return [self._regions(photo) for photo in photos]

    @property
    def problems(self) -> list[tuple[str, str]]:
        """See :attr:`Detector.problems`."""
        return list(self._problems)

    def _regions(self, photo: Photo) -> Regions:
        boxes = self._boxes.get(photo.id, [])
        for box in boxes:
            if not fits(box, photo.size):
                self._problems[photo.id, outside(photo.size, box)] = None
        inside = [box for box in boxes if fits(box, photo.size)]
        return Regions(torch.tensor(inside, dtype=torch.float32).reshape(-1, 4), photo.size)


class GridBoxes(Detector):
    """The squares of the R-MAC grid, laid on pixels.

    Args:
        levels: See :class:`~objemb.regions.rmac_grid.RmacGrid`.
    """

    def __init__(self, levels: int = 3) -> None:
        self._grid = RmacGrid(levels=levels)

    def detect(self, photos: Sequence[Photo]) -> list[Regions]:
        """See :meth:`Detector.detect`."""
        return [regions[1:] for regions in self._grid.find(photos)]


class NoBoxes(Detector):
    """Detects nothing, so that only the whole photo is described."""

    def detect(self, photos: Sequence[Photo]) -> list[Regions]:
        """See :meth:`Detector.detect`."""
        return [Regions.empty(photo.size) for photo in photos]


class BestBoxes(Detector):
    """The best boxes of another detector, up to a maximum number.

    Args:
        detector: The other detector.
        most: Largest number of boxes.
    """

    def __init__(self, detector: Detector, most: int) -> None:
        self._detector, self._most = detector, checks.whole("most", most, 0)
        self.classes = detector.classes

    def detect(self, photos: Sequence[Photo]) -> list[Regions]:
        """See :meth:`Detector.detect`."""
        return [boxes[: self._most] for boxes in self._detector.detect(photos)]

    def decode_side(self) -> int:
        """See :meth:`Detector.decode_side`."""
        return self._detector.decode_side()

    @property
    def problems(self) -> list[tuple[str, str]]:
        """See :attr:`Detector.problems`."""
        return self._detector.problems

    def expect_used(self) -> None:
        """See :meth:`Detector.expect_used`."""
        self._detector.expect_used()


def boxes_from(source: str, data: EvaluationSet, own: Detector | None) -> Detector | None:
    """The detector that gives the boxes of database photos.

    Args:
        source: One of :data:`SOURCES`.
        data: The set, for its true boxes.
        own: The detector for the source ``detector``; None for the method's own regions.
    """
    checks.one_of("box source", source, SOURCES)
    if source == GROUND_TRUTH:
        return TrueBoxes(data)
    if source == DETECTOR:
        return own
    return GridBoxes() if source == GRID else NoBoxes()
