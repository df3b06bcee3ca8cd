"""The contract of an extractor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor

from objemb import checks
from objemb.backbones.base import Backbone
from objemb.ops.arrays import as_tensor
from objemb.ops.grid import Grid
from objemb.ops.images import as_batch
from objemb.pooling.base import Pooling
from objemb.registry import Plugin
from objemb.structures import Photo, Regions


class Extraction(ABC):
    """A batch of photos, seen: what :meth:`Extractor.see` returns. Lives as long as the batch."""

    #: A grid per photo.
    grids: list[Grid]

    @property
    def maps(self) -> list[Tensor]:
        """Per photo its feature map, float ``(C, h, w)``, of as many cells as its grid has.

        Raises:
            TypeError: Photos are not seen as one map each.
        """
        raise TypeError("extractor: expected map, which sees a photo as one feature map, found another")

    @abstractmethod
    def pool(self, regions: Sequence[Regions], pooling: Pooling) -> list[Tensor]:
        """Vectors of regions.

        Args:
            regions: One ``Regions`` per photo, boxes in original pixels. A ``masks`` extra, uint8 or bool
                ``(N, mh, mw)`` over the *box*, tightens the attention where the extractor is told to use it.
            pooling: How to sum up.

        Returns:
            Per photo float ``(N, D)``, D as ``pooling.length`` says, not normalised. One-pixel and empty boxes are
            widened to the smallest region that can be pooled, so that every region gets a vector.
        """

    @abstractmethod
    def local_features(self, regions: Sequence[Regions], pooling: Pooling) -> list[Tensor]:
        """What the cells under the regions say, one vector each: what codebooks are learned from.

        Args:
            regions: One ``Regions`` per photo, boxes in original pixels.
            pooling: Says which cells of a region count.

        Returns:
            Per photo float ``(n, C)``, not normalised; a cell of a shared map comes once, however many regions it
            counts in. A photo without regions has none.
        """


class Extractor(Plugin, ABC):
    """How the pixels under a box reach the network."""

    kind = "extractors"

    @abstractmethod
    def see(self, photos: Sequence[Photo], backbone: Backbone, scale: float = 1.0) -> Extraction:
        """Look at a batch of photos of any sizes (photos that resize to the same shape share a forward pass).

        Args:
            photos: The batch.
            backbone: The network, on the device on which everything is to run.
            scale: Factor on the extractor's own input size, for multi-scale description.
        """

    @abstractmethod
    def decode_side(self, scale: float = 1.0) -> int | None:
        """The longest side in pixels at which this extractor looks at photos, or None for full resolution.

        The decoder may scale JPEGs down (never below twice that side), which saves most of the decoding time.

        Args:
            scale: As for :meth:`see`; the greatest of several.
        """

    def for_part(self, part: tuple[int, int], whole: tuple[int, int]) -> Extractor:
        """The extractor with which a part of a photo, cut out, enters the network as large as it would in its photo.

        That is this extractor itself where its size does not speak of the photo, because it brings every region to a
        size of its own: what it makes of a part does not depend on how large the photo was.

        Args:
            part: ``(height, width)`` of the part in original pixels.
            whole: The same of the photo.
        """
        return self


def pixel_grid(photo: Photo) -> Grid:
    """The raster of the original pixels, for extractors without a shared map."""
    return Grid(photo.size[0], photo.size[1], (1.0, 1.0))


def device_of(backbone: Backbone) -> torch.device:
    """Where the network is; the CPU when it has no state at all."""
    state = next(chain(backbone.parameters(), backbone.buffers()), None)
    return torch.device("cpu") if state is None else state.device


def embed(images: Sequence[Tensor], backbone: Backbone) -> Tensor:
    """Feature maps ``(B, C, h', w')`` of uint8 images ``(3, h, w)`` of one shape, on the device of the backbone."""
    return backbone(as_batch(images, device_of(backbone)))


def masks_of(regions: Regions) -> Tensor | None:
    """The masks ``(N, mh, mw)`` over the boxes of regions, on the CPU; None when they have none."""
    masks = regions.array("masks")
    if masks is None:
        return None
    return as_tensor(checks.shape("Regions.extras['masks']", masks, (len(regions), None, None)))
