"""The contract of an aggregator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from objemb.layers.fitted import Fitted
from objemb.registry import Plugin
from objemb.structures import RegionDescriptors, RegionFeatures, Regions, VisualWords


class Aggregator(Plugin, ABC):
    """Turns all region descriptors of an image into the ones that are indexed.

    Attributes:
        per_region: Whether every region keeps a row of its own, so that a query box is one region too. Where an image
            is summed up instead, a query box is cut out and described as an image of its own.
    """

    kind = "aggregators"
    per_region: bool

    @abstractmethod
    def aggregate(self, described: RegionDescriptors) -> RegionDescriptors:
        """Rows for the index.

        Args:
            described: All regions of one image; region 0 is the whole image. Zero regions are allowed.

        Returns:
            At most as many regions, float32 unit vectors of the same length (zero vectors stay zero).
        """

    def first_counted(self, regions: Regions) -> int:
        """The first of an image's regions that a row is made of: 1 where region 0 is left out, else 0.

        What learns from the vectors of regions, such as a whitening, learns from those that count.
        """
        return 0


class FeatureAggregator(nn.Module, Plugin, ABC):
    """Turns the local features of an image and its regions into the rows that are indexed.

    Parts that learn from features, such as a codebook, are :class:`~objemb.layers.fitted.Fitted` submodules.

    Attributes:
        gives: What the rows are: :class:`~objemb.structures.RegionDescriptors` or
            :class:`~objemb.structures.VisualWords`.
        per_region: Whether every region keeps a row of its own; set by the constructor.
    """

    kind = "aggregators"
    gives: ClassVar[type[RegionDescriptors] | type[VisualWords]]
    per_region: bool

    @property
    @abstractmethod
    def dim(self) -> int:
        """Length of the vectors, or of the residuals, of a row."""

    @abstractmethod
    def connect(self, dim: int) -> None:
        """Make the parts whose shapes depend on the length of the features; called once, when a model is built."""

    def fitted_parts(self) -> Mapping[str, Fitted]:
        """Parts that learn from features, by dotted module name, in the order in which they have to learn."""
        return {name: part for name, part in self.named_modules() if isinstance(part, Fitted)}

    @abstractmethod
    def samples(self, part: str, described: Sequence[RegionFeatures]) -> Tensor:
        """What a part learns from in some photos, float32 ``(N, D)`` on the CPU, N of any size, zero included.

        Args:
            part: A key of :meth:`fitted_parts`; those before it have learned.
            described: The photos.
        """

    @abstractmethod
    def aggregate(self, described: RegionFeatures) -> RegionDescriptors | VisualWords:
        """Rows for the index. Zero regions and zero features are allowed; region 0 is the whole image, unless the
        boxes of an image were given."""

    @abstractmethod
    def aggregate_query(self, described: RegionFeatures) -> RegionDescriptors | VisualWords:
        """Rows to search with: one for each region."""
