"""The contract of a region source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Self

from torch import Tensor, nn

from objemb import checks, registry
from objemb.detectors.base import Detector
from objemb.detectors.capabilities import DetectionProgram, DetectorPass, NetworkDetector, PaddedBoxes
from objemb.ops.grid import Grid, TracedGrid
from objemb.registry import Plugin
from objemb.structures import Photo, Regions


class RegionProgram(nn.Module, ABC):
    """Regions beside the whole image as functions of tensors, for exporters.

    Attributes:
        max_detections: K, the number of rows for boxes; 0 where there are none.
        min_score: Boxes with lower scores are left out.
        detects: Whether the boxes are objects that a detector found.
        covers: Whether some do, and the others, which have no label, only cover the photo.
    """

    max_detections: int
    min_score: float = 0.0
    detects: bool = False
    covers: bool = False

    @abstractmethod
    def forward(self, photos: Tensor, grid: TracedGrid | None) -> list[PaddedBoxes]:
        """The boxes of photos of one size, in their pixels.

        Args:
            photos: uint8 ``(B, H, W, 3)``, RGB.
            grid: What rigid regions are laid on; None for the pixels of the photos.

        Returns:
            Per photo K boxes or fewer.
        """

    def in_pass(self, photos: Tensor, pixels: Tensor, size: Tensor, maps: Mapping[str, Tensor]) -> list[PaddedBoxes]:
        """As :meth:`forward`, where the detector has computed its maps already.

        Args:
            photos: As there.
            pixels: float ``(B, 3, h, w)``, the photos as the detector took them.
            size: Height and width of the photos within it, float32 ``(2,)``.
            maps: All maps of the detector, ``(B, C, h', w')`` each.

        Raises:
            TypeError: The regions are not those of a detector.
        """
        raise TypeError(f"regions: expected boxes of a detector, found {type(self).__name__}")


class PassProgram(RegionProgram):
    """Regions some of which come from the maps of a detector.

    Attributes:
        detector: The detector.
        detection: Its program.
    """

    detector: NetworkDetector
    detection: DetectionProgram


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

    @property
    def lacks_detector(self) -> bool:
        """Whether it cannot work without a detector and has none yet, so that one has to be shared, see
        :meth:`share`."""
        return False

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
        raise ValueError(
            f"regions: expected detections or rpn_proposals, which can share a detector, found {self.registry_name}"
        )

    def limited(self, max_regions: int) -> Self:
        """This source with at most ``max_regions`` boxes of its detector per photo, in addition to the whole image.

        The detector is shared. A source without a detector is returned unchanged.
        """
        return self

    def program(self, max_detections: int | None) -> RegionProgram:
        """This source for exporters; it shares the layers.

        Args:
            max_detections: At most so many boxes of a detector per photo; the source may be content with fewer. None
                for as many as it selects.

        Raises:
            TypeError: There is none for this source, or for its detector.
        """
        programs = (registry.load(RegionSource, name) for name in registry.names(RegionSource.kind))
        known = [source.registry_name for source in programs if source.program is not RegionSource.program]
        raise TypeError(
            f"regions: expected a source that can be exported ({checks.listed(known)}), found {self.registry_name}; "
            "build a model with one of these for the export, or index with this one as it is, in PyTorch"
        )

    def network_program(self, max_detections: int | None) -> PassProgram:
        """As :meth:`program`, for a pass of the source's detector. Raises ``TypeError`` for a source without one."""
        raise TypeError(f"regions: expected a source of boxes of a detector, found {self.registry_name}")

    def decode_side(self) -> int:
        """The longest side of a photo, in pixels, that the source can use; 0 for a source that needs no pixels."""
        return 0 if self.detector is None else self.detector.decode_side()
