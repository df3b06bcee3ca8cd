"""The contracts of aggregators of region vectors and of local features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Generic, TypeVar

from torch import Tensor

from objemb.layers.fitted import WithFittedParts
from objemb.registry import Plugin
from objemb.structures import Described, MatchKernel, RegionDescriptors, RegionFeatures, Regions

#: The output of a describer for an image.
Taken = TypeVar("Taken", RegionDescriptors, RegionFeatures)


class ImageAggregator(WithFittedParts, Plugin, ABC, Generic[Taken]):
    """Turns the output of a describer for an image into rows of an index; the common base of :class:`Aggregator` and
    :class:`FeatureAggregator`.

    Fitted parts, such as a codebook, are :class:`~objemb.layers.fitted.Fitted` submodules. They stay on the CPU, and
    are saved with the weights of the describer.

    Attributes:
        takes: Type of the describer's output: :class:`~objemb.structures.RegionDescriptors` or
            :class:`~objemb.structures.RegionFeatures`.
        gives: Type of the rows: :class:`~objemb.structures.RegionDescriptors` or
            :class:`~objemb.structures.VisualWords`.
        kernel: Kernel to compare rows of visual words; None for vectors.
        per_region: Whether there is a row for every region, so that a query box is a region as well.
    """

    kind = "aggregators"
    takes: ClassVar[type[RegionDescriptors] | type[RegionFeatures]]
    gives: ClassVar[type[Described]]
    kernel: MatchKernel | None = None
    per_region: bool

    def connect(self, dim: int) -> None:
        """Create the parts whose shapes depend on the describer; called once, when a model is built.

        Args:
            dim: Dimension of the describer's vectors.
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
        """The index of the first region that is used: 1 if region 0 is left out, otherwise 0.

        Parts that are fitted on the vectors of regions, such as a whitening, are fitted on those that are used.
        """
        return 0

    def samples(self, part: str, described: Sequence[Taken]) -> Tensor:
        """Vectors of some photos on which a part is fitted, float32 ``(N, D)`` on the CPU; N may be 0.

        Args:
            part: A key of :meth:`fitted_parts`; those before it have been fitted.
            described: The output of the describer for the photos.

        Raises:
            NotImplementedError: There is no such part.
        """
        del described
        raise NotImplementedError(f"{self.registry_name}: expected no part to be fitted, found {part!r}")


class Aggregator(ImageAggregator[RegionDescriptors]):
    """Turns all region descriptors of an image into the ones that are indexed.

    Attributes:
        per_region: Whether there is a row for every region, so that a query box is a region as well. Otherwise, a query
            box is cut out and described as a separate image.
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

    def row(self, vectors: Tensor, scores: Tensor) -> Tensor:
        """The row of an image by operations that exporters can follow, where :meth:`aggregate` makes a single one.

        Args:
            vectors: float32 ``(R, D)`` of the whole image and its other regions, R at least 1.
            scores: float32 ``(R,)``.

        Returns:
            float32 ``(D,)``.

        Raises:
            TypeError: There is none for this aggregator, for instance because every region is a row.
        """
        raise TypeError(
            f"aggregator: expected one row per image that can be exported (sum), found {self.registry_name}"
        )


class FeatureAggregator(ImageAggregator[RegionFeatures]):
    """Turns the local features of an image and its regions into the rows that are indexed."""

    takes = RegionFeatures

    def most_samples(self, part: str, features: int) -> int | None:
        """Maximum number of vectors for a part from a photo with this number of local features; None if not known."""
        del part, features
        return None

    @property
    @abstractmethod
    def dim(self) -> int:
        """Dimension of the vectors, or residuals, of a row; available after :meth:`connect`."""

    @abstractmethod
    def aggregate_query(self, described: RegionFeatures) -> Described:
        """Rows to search with: one for each region."""
