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
    """Chooses the regions of a photo to describe.

    It is a module, so that the network of a detector is moved to a device and saved with the rest of the model.

    Attributes:
        detector: The detector whose boxes or proposals are the regions; None for a source without a detector.
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
            grids: For each photo, the cells on which rigid grids are laid, see
                :meth:`objemb.extractors.base.Extractor.grids`; None for original pixels. Other sources ignore it.

        Returns:
            For each photo, ``Regions`` in original pixels, on the CPU; region 0 is always the whole image.
        """

    def objects(self, photos: Sequence[Photo]) -> list[Regions]:
        """The regions of query photos: those of :meth:`find` without boxes that only cover the photo, such as
        patches in addition to detections."""
        return self.find(photos)

    def select(self, detections: Regions) -> Regions:
        """Select the regions of a photo from the output of the detector: the whole image, and the boxes to keep.

        A source whose regions depend on the size of the photo only returns these.

        Args:
            detections: All boxes or proposals of the photo, as returned by the detector.

        Raises:
            ValueError: The source does not use boxes of a detector.
        """
        raise ValueError(f"regions: expected a source that takes boxes of a detector, found {self.registry_name}")

    def find_in(self, seen: DetectorPass, photos: Sequence[Photo]) -> list[Regions]:
        """The same as :meth:`find`, from maps that the source's detector has already computed.

        Args:
            seen: A pass of the detector with all maps, see
                :meth:`~objemb.detectors.capabilities.NetworkDetector.features`.
            photos: The photos of the pass.

        Raises:
            ValueError: The source does not use boxes of a detector.
        """
        raise ValueError(f"regions: expected a source of boxes of a detector, found {self.registry_name}")

    def share(self, detector: NetworkDetector) -> None:
        """Use a detector that belongs to another module, which moves and saves it.

        Raises:
            ValueError: The source already has a detector, or does not use one.
        """
        raise ValueError(f"regions: expected detections, which can share a detector, found {self.registry_name}")

    def limited(self, max_regions: int) -> Self:
        """This source with at most ``max_regions`` boxes of its detector per photo, in addition to the whole image.

        The detector is shared. A source without a detector is returned unchanged.
        """
        return self

    def decode_side(self) -> int:
        """The longest side of a photo, in pixels, that the source can use; 0 for a source that needs no pixels."""
        return 0 if self.detector is None else self.detector.decode_side()
