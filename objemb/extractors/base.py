"""The contract of an extractor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar

from torch import Tensor, nn

from objemb import checks
from objemb.backbones.base import Backbone
from objemb.detectors.capabilities import DetectorPass
from objemb.ops.grid import Grid, TracedGrid, pixel_grid
from objemb.ops.tensors import as_tensor
from objemb.pooling.base import Pooling
from objemb.registry import Plugin
from objemb.structures import Photo, Regions

NO_MAP = "extractor: expected map, which computes one feature map per photo, found another"


class Features(ABC):
    """The features of a batch of photos, from which regions are pooled: the result of :meth:`Extractor.extract`.

    Extractors whose inputs depend on the regions compute the features when regions are pooled.
    """

    @property
    def maps(self) -> list[Tensor]:
        """The feature map of each photo, float ``(C, h, w)``, on the device of the backbone.

        Raises:
            TypeError: The extractor does not compute one map per photo, see ``Extractor.one_map``.
        """
        raise TypeError(NO_MAP)

    @property
    def grids(self) -> list[Grid]:
        """The positions of the cells of each photo's map.

        Raises:
            TypeError: As for :attr:`maps`.
        """
        raise TypeError(NO_MAP)

    @abstractmethod
    def pool(self, regions: Sequence[Regions], pooling: Pooling) -> list[Tensor]:
        """Vectors of regions.

        Args:
            regions: One ``Regions`` per photo, boxes in original pixels. If the extractor is set to use masks, the
                extra ``masks``, uint8 or bool ``(N, mh, mw)`` over the *box*, restricts a region to its mask.
            pooling: The pooling.

        Returns:
            For each photo float ``(N, D)``, not normalised, with D from ``pooling.length``. One-pixel and empty boxes
            are enlarged to the smallest region that can be pooled, so that every region has a vector.
        """

    @abstractmethod
    def local_features(self, regions: Sequence[Regions], pooling: Pooling) -> list[Tensor]:
        """The features of the cells in the regions, one vector each, on which codebooks are fitted.

        Args:
            regions: One ``Regions`` per photo, boxes in original pixels.
            pooling: Determines which cells of a region are used.

        Returns:
            For each photo float ``(n, C)``, not normalised; a cell of a shared map is included once, even if several
            regions contain it. A photo without regions has no cells.
        """


class TracedFeatures(ABC):
    """The features of a photo in a program that is traced: what :class:`Features` are otherwise."""

    @property
    def map(self) -> Tensor:
        """The feature map, float ``(C, h, w)``.

        Raises:
            TypeError: The extractor computes no such map.
        """
        raise TypeError(NO_MAP)

    @abstractmethod
    def pool(self, boxes: Tensor, pooling: Pooling) -> Tensor:
        """Vectors float ``(N, D)``, not normalised, of boxes float32 ``(N, 4)`` in pixels of the photo."""


class ExtractionProgram(nn.Module, ABC):
    """An extractor with its network as a function of tensors, for exporters.

    Attributes:
        keeps_scale: Whether a part of a photo may enter the network at the scale of the photo, see
            :meth:`at_scale_of`.
    """

    keeps_scale: ClassVar[bool] = False

    @abstractmethod
    def grid(self, photos: Tensor) -> TracedGrid | None:
        """See :meth:`Extractor.grids`; None for the pixels of the photos, which have one size."""

    @abstractmethod
    def forward(self, photos: Tensor) -> list[TracedFeatures]:
        """The features of photos of one size.

        Args:
            photos: uint8 ``(B, H, W, 3)``, RGB.
        """

    def pixels(self, photos: Tensor) -> Tensor:
        """Photos as the input of the network, float ``(B, 3, h, w)``, RGB, 0 to 1.

        Raises:
            TypeError: The extractor does not take photos as a whole.
        """
        raise TypeError(NO_MAP)

    def at_scale_of(self, whole: tuple[int, int]) -> AbstractContextManager[None]:
        """Within this context, photos are parts of a photo of the size ``(height, width)``, and enter the network at
        its scale, as :meth:`Extractor.for_part` says."""
        del whole
        return nullcontext()

    def of_maps(self, photos: Tensor, maps: Tensor) -> list[TracedFeatures]:
        """As :meth:`forward`, from the maps ``(B, C, h', w')`` of the photos.

        Raises:
            TypeError: As for :meth:`pixels`.
        """
        raise TypeError(NO_MAP)


class Extractor(Plugin, ABC):
    """Brings the pixels of photos and boxes to the network.

    Attributes:
        one_map: Whether a photo has one feature map, so that ``Features.maps`` and ``Features.grids`` are available.
        cuts_out: Whether every region is cut out as a separate input, see :meth:`cut`.
    """

    kind = "extractors"

    one_map: ClassVar[bool] = False
    cuts_out: ClassVar[bool] = False

    def grids(self, photos: Sequence[Photo], backbone: Backbone, scale: float = 1.0) -> list[Grid]:
        """The grids on which rigid regions are laid, computed without running the network: the cells of the photo's
        map, or original pixels if there is no such map.

        Args:
            photos: The batch.
            backbone: The network.
            scale: As for :meth:`extract`.
        """
        return [pixel_grid(photo.size) for photo in photos]

    @abstractmethod
    def extract(self, photos: Sequence[Photo], backbone: Backbone, scale: float = 1.0) -> Features:
        """The features of a batch of photos of any sizes (photos that resize to the same shape share a forward pass).

        Args:
            photos: The batch.
            backbone: The network, on the device to compute on.
            scale: Factor on the extractor's input size, for multi-scale description.
        """

    def pass_shapes(self, photo: Photo, regions: Regions) -> Hashable:
        """What decides the shapes of all tensors by which regions of a photo are pooled: photos for which it is equal
        may share forward passes. By default the boxes and the sizes of the photo, as cells are pooled in groups."""
        return photo.size, photo.pixels.shape, regions.boxes.tobytes()

    def extract_in_passes(
        self, photos: Sequence[Photo], backbone: Backbone, scale: float = 1.0
    ) -> tuple[Features, list[tuple[list[int], DetectorPass]]]:
        """As :meth:`extract`, with all maps of the detector of which the backbone is a map, so that boxes of its heads
        cost no pass of their own.

        Args:
            photos: As for :meth:`extract`.
            backbone: A map of a detector, see :meth:`Backbone.source_detector`.
            scale: As for :meth:`extract`.

        Returns:
            The features, and for each pass of the detector the numbers of its photos. The maps have gradients if the
            features have.

        Raises:
            TypeError: The extractor does not compute one map per photo, or the backbone is not that of a detector.
        """
        raise TypeError(f"extractor: expected map, which takes a photo as a whole, found {self.registry_name}")

    def cut(self, photo: Photo, regions: Regions, backbone: Backbone, scale: float = 1.0) -> Iterator[Tensor]:
        """The regions of a photo as inputs of the network, one after another.

        Args:
            photo: The photo.
            regions: Boxes in original pixels, and their masks if the extractor uses them.
            backbone: The network.
            scale: As for :meth:`extract`.

        Yields:
            uint8 ``(3, h, w)`` for each region.

        Raises:
            TypeError: The extractor does not cut out regions, see ``cuts_out``.
        """
        raise TypeError(f"extractor: expected crop, which cuts regions out, found {type(self).__name__}")

    def program(self, backbone: Backbone, scale: float = 1.0) -> ExtractionProgram:
        """This extractor for exporters; it shares the layers of the network.

        Args:
            backbone: The network.
            scale: As for :meth:`extract`.

        Raises:
            TypeError: There is none for this extractor, or for its settings.
        """
        raise TypeError(
            f"extractor: expected one that can be exported, found {self.registry_name}, which has no program for "
            "exporters"
        )

    @abstractmethod
    def decode_side(self, scale: float = 1.0) -> int | None:
        """The largest longest side, in pixels, to which photos are resized, or None for full resolution.

        The decoder may scale JPEGs down (never below twice that side), which saves most of the decoding time.

        Args:
            scale: As for :meth:`extract`; the largest if there are several.
        """

    def for_part(self, part: tuple[int, int], whole: tuple[int, int]) -> Extractor:
        """The extractor for a part cut out of a photo: the part enters the network at the scale that it has in its
        photo.

        An extractor that resizes every region to the same size returns itself, because its features of a part do not
        depend on the size of the photo.

        Args:
            part: ``(height, width)`` of the part in original pixels.
            whole: ``(height, width)`` of the photo in original pixels.
        """
        return self


def masks_of(regions: Regions) -> Tensor | None:
    """The masks ``(N, mh, mw)`` over the boxes of regions, on the CPU; None if there are none."""
    masks = regions.array("masks")
    if masks is None:
        return None
    return as_tensor(checks.shape("Regions.extras['masks']", masks, (len(regions), None, None)))
