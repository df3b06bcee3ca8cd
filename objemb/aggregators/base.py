"""The contracts of aggregators: of region vectors, and of local features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Generic, TypeVar

from torch import Tensor

from objemb.layers.fitted import WithFittedParts
from objemb.registry import Plugin
from objemb.structures import Described, MatchKernel, RegionDescriptors, RegionFeatures, Regions

#: What a describer gives of an image.
Taken = TypeVar("Taken", RegionDescriptors, RegionFeatures)


class ImageAggregator(WithFittedParts, Plugin, ABC, Generic[Taken]):
    """Turns what a describer gives of an image into the rows that are indexed: what :class:`Aggregator` and
    :class:`FeatureAggregator` share.

    Parts that learn, such as a codebook, are :class:`~objemb.layers.fitted.Fitted` submodules. They stay on the CPU,
    and are saved with the weights of the describer.

    Attributes:
        takes: What a describer has to give: :class:`~objemb.structures.RegionDescriptors` or
            :class:`~objemb.structures.RegionFeatures`.
        gives: What the rows are: :class:`~objemb.structures.RegionDescriptors` or
            :class:`~objemb.structures.VisualWords`.
        kernel: How rows of visual words are compared; None where rows are vectors.
        per_region: Whether every region keeps a row of its own, so that a query box is one region too.
    """

    kind = "aggregators"
    takes: ClassVar[type[RegionDescriptors] | type[RegionFeatures]]
    gives: ClassVar[type[Described]]
    kernel: MatchKernel | None = None
    per_region: bool

    def connect(self, dim: int) -> None:
        """Make the parts whose shapes depend on what is taken; called once, when a model is built.

        Args:
            dim: Length of the vectors that a describer gives.
        """
        del dim

    @abstractmethod
    def aggregate(self, described: Taken) -> Described:
        """Rows for the index.

        Args:
            described: All regions of one image; region 0 is the whole image, unless the boxes of an image were given.
                Zero regions are allowed.
        """

    def first_counted(self, regions: Regions) -> int:
        """The first of an image's regions that a row is made of: 1 where region 0 is left out, else 0.

        What learns from the vectors of regions, such as a whitening, learns from those that count.
        """
        return 0

    def samples(self, part: str, described: Sequence[Taken]) -> Tensor:
        """What a part learns from in some photos, float32 ``(N, D)`` on the CPU, N of any size, zero included.

        Args:
            part: A key of :meth:`fitted_parts`; those before it have learned.
            described: The photos.

        Raises:
            NotImplementedError: There is no such part.
        """
        del described
        raise NotImplementedError(f"{self.registry_name}: expected no part that learns, found {part!r}")


class Aggregator(ImageAggregator[RegionDescriptors]):
    """Turns all region descriptors of an image into the ones that are indexed.

    Attributes:
        per_region: Whether every region keeps a row of its own, so that a query box is one region too. Where an image
            is summed up instead, a query box is cut out and described as an image of its own.
    """

    takes = RegionDescriptors
    gives = RegionDescriptors

    @abstractmethod
    def aggregate(self, described: RegionDescriptors) -> RegionDescriptors:
        """Rows for the index.

        Args:
            described: All regions of one image; region 0 is the whole image. Zero regions are allowed.

        Returns:
            At most as many regions, float32 unit vectors of the same length (zero vectors stay zero).
        """


class FeatureAggregator(ImageAggregator[RegionFeatures]):
    """Turns the local features of an image and its regions into the rows that are indexed."""

    takes = RegionFeatures

    def most_samples(self, part: str, features: int) -> int | None:
        """The most vectors that a part learns from in a photo of so many local features; None where it is not known."""
        del part, features
        return None

    @property
    @abstractmethod
    def dim(self) -> int:
        """Length of the vectors, or of the residuals, of a row; there after :meth:`connect`."""

    @abstractmethod
    def aggregate_query(self, described: RegionFeatures) -> Described:
        """Rows to search with: one for each region."""
