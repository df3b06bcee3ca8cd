"""The contract of an extractor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

from torch import Tensor

from objemb import checks
from objemb.backbones.base import Backbone
from objemb.ops.grid import Grid, pixel_grid
from objemb.ops.tensors import as_tensor
from objemb.pooling.base import Pooling
from objemb.registry import Plugin
from objemb.structures import Photo, Regions

NO_MAP = "extractor: expected map, which computes one feature map per photo, found another"


class Features(ABC):
    """The features of a batch of photos, from which regions are pooled: what :meth:`Extractor.extract` returns.

    It lives as long as the batch. Extractors whose inputs depend on the regions compute when they are pooled.
    """

    @property
    def maps(self) -> list[Tensor]:
        """Per photo its feature map, float ``(C, h, w)``, on the device of the backbone.

        Raises:
            TypeError: The extractor computes no such map, see ``Extractor.one_map``.
        """
        raise TypeError(NO_MAP)

    @property
    def grids(self) -> list[Grid]:
        """Per photo where the cells of its map lie.

        Raises:
            TypeError: As for :attr:`maps`.
        """
        raise TypeError(NO_MAP)

    @abstractmethod
    def pool(self, regions: Sequence[Regions], pooling: Pooling) -> list[Tensor]:
        """Vectors of regions.

        Args:
            regions: One ``Regions`` per photo, boxes in original pixels. A ``masks`` extra, uint8 or bool
                ``(N, mh, mw)`` over the *box*, restricts a region to its mask where the extractor is told to use it.
            pooling: How to pool.

        Returns:
            Per photo float ``(N, D)``, D as ``pooling.length`` says, not normalised. One-pixel and empty boxes are
            widened to the smallest region that can be pooled, so that every region gets a vector.
        """

    @abstractmethod
    def local_features(self, regions: Sequence[Regions], pooling: Pooling) -> list[Tensor]:
        """The features of the cells under the regions, one vector each: what codebooks are learned from.

        Args:
            regions: One ``Regions`` per photo, boxes in original pixels.
            pooling: Says which cells of a region count.

        Returns:
            Per photo float ``(n, C)``, not normalised; a cell of a shared map comes once, however many regions it
            counts in. A photo without regions has none.
        """


class Extractor(Plugin, ABC):
    """How the pixels under a box reach the network.

    Attributes:
        one_map: Whether a photo becomes one feature map, so that ``Features.maps`` and ``Features.grids`` are there.
        cuts_out: Whether every region is cut out and becomes an input of its own, see :meth:`cut`.
    """

    kind = "extractors"

    one_map: ClassVar[bool] = False
    cuts_out: ClassVar[bool] = False

    def grids(self, photos: Sequence[Photo], backbone: Backbone, scale: float = 1.0) -> list[Grid]:
        """What rigid regions are laid on, found without running the network: the cells of the photo's map, or the
        pixels of the original where there is no such map.

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
            backbone: The network, on the device on which everything is to run.
            scale: Factor on the extractor's own input size, for multi-scale description.
        """

    def cut(self, photo: Photo, regions: Regions, backbone: Backbone, scale: float = 1.0) -> Iterator[Tensor]:
        """The regions of a photo as inputs of the network, one after the other.

        Args:
            photo: The photo.
            regions: Boxes in original pixels, and their masks where the extractor uses them.
            backbone: The network.
            scale: As for :meth:`extract`.

        Yields:
            uint8 ``(3, h, w)`` per region.

        Raises:
            TypeError: The extractor cuts nothing out, see ``cuts_out``.
        """
        raise TypeError(f"extractor: expected crop, which cuts regions out, found {type(self).__name__}")

    @abstractmethod
    def decode_side(self, scale: float = 1.0) -> int | None:
        """The longest side in pixels to which photos are resized at most, or None for full resolution.

        The decoder may scale JPEGs down (never below twice that side), which saves most of the decoding time.

        Args:
            scale: As for :meth:`extract`; the greatest of several.
        """

    def for_part(self, part: tuple[int, int], whole: tuple[int, int]) -> Extractor:
        """The extractor with which a part of a photo, cut out, enters the network as large as it would in its photo.

        An extractor that brings every region to a size of its own returns itself: its features of a part do not depend
        on the size of the photo.

        Args:
            part: ``(height, width)`` of the part in original pixels.
            whole: The same of the photo.
        """
        return self


def masks_of(regions: Regions) -> Tensor | None:
    """The masks ``(N, mh, mw)`` over the boxes of regions, on the CPU; None when they have none."""
    masks = regions.array("masks")
    if masks is None:
        return None
    return as_tensor(checks.shape("Regions.extras['masks']", masks, (len(regions), None, None)))
