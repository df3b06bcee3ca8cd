"""The contract of a detector; :mod:`objemb.detectors.capabilities` has that of one that is a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from objemb.registry import Plugin
from objemb.structures import Photo, Regions


class Detector(Plugin, ABC):
    """Finds objects. A detector that is a network is an ``nn.Module`` as well, always in eval mode.

    Attributes:
        classes: Names of the labels, 0-based without background; empty when unknown.
    """

    kind = "detectors"
    classes: tuple[str, ...] = ()

    @abstractmethod
    def detect(self, photos: Sequence[Photo]) -> list[Regions]:
        """Boxes of a batch of photos, all of them: thresholds and limits belong to the region source.

        Returns:
            Per photo ``Regions`` in original pixels, sorted by falling score, labels 0-based without background. A
            detector that knows masks adds the extra ``masks``: uint8 0 or 1 ``(N, mh, mw)``, the mask
            *within the box*, stretched over it (28 x 28 as Mask R-CNN predicts it).
        """

    def decode_side(self) -> int:
        """The longest side of a photo in pixels that is of use; 0 for a detector that does not use pixels."""
        return 0

    def content_hash(self) -> str | None:
        """SHA-256, 64 hex digits, of the file that the boxes are read from; None for a detector that computes them."""
        return None

    @property
    def problems(self) -> list[tuple[str, str]]:
        """``(entry, reason)`` of what could not be used so far, where boxes come from elsewhere, such as a file."""
        return []

    def expect_used(self) -> None:
        """Raise ``ValueError`` where boxes come from elsewhere, and not one of them could be used so far."""
