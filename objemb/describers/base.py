"""The contract of a describer."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

from torch import Tensor, nn

from objemb.extractors.base import Extractor
from objemb.layers.fitted import Fitted
from objemb.registry import Plugin
from objemb.structures import Photo, RegionDescriptors, Regions


class Describer(nn.Module, Plugin, ABC):
    """Turns photos into regions with unit vectors.

    It stays in eval mode, since a description must not depend on the batch that it is part of; who trains a part sets
    that part alone to training.
    """

    kind = "describers"

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode, whatever ``mode`` says."""
        return super().train(False)

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

    def sees_boxes_in_photo(self, per_region: bool) -> bool:
        """Whether a query box is described as a region of its photo, as ``describe`` does with given boxes; else it is
        cut out and described as an image of its own.

        The vectors of boxes have to be of the kind that the rows of an index are: vectors of regions where regions are
        indexed, and of images where those are summed up.

        Args:
            per_region: Whether the aggregator gives every region a row of its own.
        """
        return per_region

    def for_part(self, part: tuple[int, int], whole: tuple[int, int]) -> Self | None:
        """The describer of parts of photos that are cut out: they enter the network as large as in their photo.

        The networks are shared.

        Args:
            part: ``(height, width)`` of the part in original pixels.
            whole: The same of the photo.

        Returns:
            None for a describer without an extractor, whose network brings whatever it gets to a size of its own.
        """
        extractor = getattr(self, "extractor", None)
        if not isinstance(extractor, Extractor):
            return None
        other = copy.copy(self)
        # an attribute of the copy alone
        vars(other)["extractor"] = extractor.for_part(part, whole)
        return other

    def fitted_parts(self) -> dict[str, Fitted]:
        """Parts that learn from vectors, by dotted module name, in the order in which they have to learn."""
        return {name: part for name, part in self.named_modules() if isinstance(part, Fitted)}

    def check_fitted(self) -> None:
        """Raise :class:`~objemb.checks.NotFittedError` where a part has not learned yet."""
        for part in self.fitted_parts().values():
            part.check_fitted()

    def samples(self, part: str, photos: Sequence[Photo], regions: Sequence[Regions | None] | None = None) -> Tensor:
        """The vectors of some photos that a part learns from.

        Args:
            part: A key of :meth:`fitted_parts`; those before it have learned.
            photos: As for :meth:`describe`.
            regions: As for :meth:`describe`.

        Returns:
            float32 ``(N, D)``, N of any size, zero included, in the order of the photos.

        Raises:
            NotImplementedError: The describer has no vectors for such a part.
        """
        raise NotImplementedError(f"{type(self).__name__}: expected no part that learns from vectors, found {part!r}")


def checked_given(photos: Sequence[Photo], regions: Sequence[Regions | None] | None) -> list[Regions | None]:
    """The second argument of :meth:`Describer.describe`, one item per photo.

    Raises:
        ValueError: Another number than that of the photos, or regions of an image of another size.
    """
    given: list[Regions | None] = [None] * len(photos) if regions is None else list(regions)
    if len(given) != len(photos):
        raise ValueError(f"regions: expected one per photo ({len(photos)}), found {len(given)}")
    for photo, of_photo in zip(photos, given, strict=True):
        if of_photo is not None and of_photo.size != photo.size:
            raise ValueError(f"regions of {photo.id!r}: expected the image size {photo.size}, found {of_photo.size}")
    return given
