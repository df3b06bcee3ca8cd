"""The contract of detectors; :mod:`objemb.detectors.capabilities` has that of detectors that are networks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from objemb.registry import Plugin
from objemb.structures import Photo, Regions


class Detector(Plugin, ABC):
    """Detects objects. A detector that is a network is also an ``nn.Module``, always in eval mode.

    Attributes:
        classes: Names of the classes, 0-based without background; empty if unknown.
    """

    kind = "detectors"
    classes: tuple[str, ...] = ()

    @abstractmethod
    def detect(self, photos: Sequence[Photo]) -> list[Regions]:
        """All boxes of a batch of photos; thresholds and limits belong to the region source.

        Returns:
            For each photo, ``Regions`` in original pixels, sorted by descending score, with labels 0-based without
            background. A detector with masks adds the extra ``masks``: uint8 0 or 1 ``(N, mh, mw)``, the mask *within
            the box*, stretched over it (28 x 28 as predicted by Mask R-CNN).
        """

    def decode_side(self) -> int:
        """The longest side of a photo, in pixels, that the detector can use; 0 if it does not use pixels."""
        return 0

    def content_hash(self) -> str | None:
        """SHA-256, 64 hex digits, of the file that the boxes are read from; None for a detector that computes them."""
        return None

    @property
    def problems(self) -> list[tuple[str, str]]:
        """``(entry, reason)`` for each entry that could not be used so far, if boxes are read from a file."""
        return []

    def expect_used(self) -> None:
        """Raise ``ValueError`` if boxes are read from a file and none of them could be used so far."""
