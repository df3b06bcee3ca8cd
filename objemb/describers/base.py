"""The contract of a describer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import nn

from objemb.structures import Photo, RegionDescriptors, Regions


class Describer(nn.Module, ABC):
    """Turns photos into regions with unit vectors."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Length of the vectors."""

    @abstractmethod
    def describe(
        self, photos: Sequence[Photo], regions: Sequence[Regions | None] | None = None
    ) -> list[RegionDescriptors]:
        """Describe a batch of photos of any sizes.

        Args:
            photos: The batch; zero photos give an empty list.
            regions: Per photo the boxes to describe *instead of* looking for some (a query box, ground truth), or
                None to let the describer look. Given boxes are described as given: no whole-image region is added.

        Returns:
            Per photo its regions with float32 vectors on the CPU. When the describer looked by itself, region 0 is the
            whole image.
        """

    @abstractmethod
    def decode_side(self) -> int | None:
        """The longest side in pixels that is of use, or None for full resolution; see ``Extractor.decode_side``."""
