"""The contract of a region source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

from torch import nn

from objemb.detectors.base import Detector
from objemb.detectors.capabilities import DetectorPass, NetworkDetector
from objemb.ops.grid import Grid
from objemb.registry import Plugin
from objemb.structures import Photo, Regions


class RegionSource(nn.Module, Plugin, ABC):
    """Chooses the regions of a photo that are described.

    A module, so that a detector that is a network moves to a device and is saved with the rest of the model.

    Attributes:
        detector: Whose boxes or proposals the regions are; None for a source without one.
    """

    kind = "regions"

    detector: Detector | None

    def __init__(self) -> None:
        super().__init__()
        self.detector = None

    @abstractmethod
    def find(self, photos: Sequence[Photo], grids: Sequence[Grid] | None = None) -> list[Regions]:
        """Regions of a batch.

        Args:
            photos: The batch.
            grids: Per photo what rigid regions are laid on, see :meth:`objemb.extractors.base.Extractor.grids`; None
                for the pixels of the originals. Sources that lay none ignore it.

        Returns:
            Per photo ``Regions`` in original pixels, on the CPU; region 0 is always the whole image.
        """

    def select(self, found: Regions) -> Regions:
        """The regions of a photo whose boxes the detector has found already: the whole image, and those that are kept.

        Args:
            found: All boxes or proposals of the photo, as the detector gives them.

        Raises:
            ValueError: The source has no use for boxes of a detector.
        """
        raise ValueError(f"regions: expected a source that takes boxes of a detector, found {self.registry_name}")

    def find_in(self, seen: DetectorPass, photos: Sequence[Photo]) -> list[Regions]:
        """As :meth:`find`, where the source's detector has computed its maps already.

        Args:
            seen: All maps of the detector, see :meth:`~objemb.detectors.capabilities.NetworkDetector.features`.
            photos: Those of the pass.

        Raises:
            ValueError: The source has no use for boxes of a detector.
        """
        raise ValueError(f"regions: expected a source of boxes of a detector, found {self.registry_name}")

    def share(self, detector: NetworkDetector) -> None:
        """Take the boxes of a detector that is a part of another module, which moves it and saves it.

        Raises:
            ValueError: The source has a detector of its own, or no use for one.
        """
        raise ValueError(f"regions: expected detections, which can share a detector, found {self.registry_name}")

    def limited(self, max_regions: int) -> Self:
        """This source with at most ``max_regions`` boxes of its detector per photo, beside the whole image.

        The detector is shared. A source without a detector has no best boxes to keep, and is returned as it is.
        """
        return self

    def decode_side(self) -> int:
        """The longest side of a photo in pixels that the source makes use of; 0 for one that needs no pixels."""
        return 0 if self.detector is None else self.detector.decode_side()
