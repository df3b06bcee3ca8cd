"""A describer with an aggregator: from photos to the rows of an index, and to those of a query."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias

from torch import Tensor

from objemb import checks, registry
from objemb.aggregators.base import Aggregator, FeatureAggregator, ImageAggregator, Taken
from objemb.describers.base import Describer, FeatureDescriber, PhotoDescriber
from objemb.layers.fitted import Fitted
from objemb.models.feature_query import describe_feature_boxes
from objemb.models.query import describe_boxes, describe_whole, least_cut_side, least_longest_side
from objemb.structures import Described, Photo, RegionDescriptors, RegionFeatures, Regions
from objemb.structures.described import IN_WORDS

AnyDescriber: TypeAlias = Describer | FeatureDescriber
AnyAggregator: TypeAlias = Aggregator | FeatureAggregator
#: Prefix of the parts of the aggregator among those of a model.
AGGREGATOR = "aggregator."


class Pipeline(ABC, Generic[Taken]):
    """What a model does with photos, whatever it makes of them.

    Attributes:
        describer, aggregator: The two steps.
    """

    describer: PhotoDescriber[Taken]
    aggregator: ImageAggregator[Taken]

    @property
    @abstractmethod
    def dim(self) -> int:
        """Length of the vectors, or of the residuals of visual words."""

    @abstractmethod
    def query_whole(self, photo: Photo) -> Described:
        """The one row to search with for a whole photo."""

    @abstractmethod
    def query_boxes(self, photo: Photo, boxes: Regions, crop: str) -> Described:
        """One row for each box, in their order and in the frame of the photo; ``crop`` as for ``Model.query``."""

    @abstractmethod
    def least_cut_side(self, boxes: Regions, crop: str) -> float | None:
        """The longest side in original pixels of the least box that is cut out and described at the size of a photo;
        None where no box is."""

    def rows(self, photos: Sequence[Photo], given: Sequence[Regions | None] | None = None) -> list[Described]:
        """Rows for an index, photo by photo; ``given`` are regions, as for ``describer.describe``."""
        return [self.aggregator.aggregate(one) for one in self.describer.describe(photos, given)]

    def samples(self, part: str, photos: Sequence[Photo], given: Sequence[Regions | None] | None = None) -> Tensor:
        """The vectors of some photos that a part learns from, a key of :meth:`fitted_parts`."""
        if part.startswith(AGGREGATOR):
            return self.aggregator.samples(part.removeprefix(AGGREGATOR), self.describer.describe(photos, given))
        return self.describer.samples(part, photos, given)

    def fitted_parts(self) -> dict[str, Fitted]:
        """Parts that learn, by dotted name, in the order in which they have to: the describer's come first."""
        own = {f"{AGGREGATOR}{name}": part for name, part in self.aggregator.fitted_parts().items()}
        return {**self.describer.fitted_parts(), **own}

    def unfitted(self) -> list[str]:
        """Names of the parts that have not learned yet, in the order in which they have to."""
        return [name for name, part in self.fitted_parts().items() if not part.is_fitted]

    def check_fitted(self) -> None:
        """Raise :class:`~objemb.checks.NotFittedError` where a part has not learned yet."""
        for part in self.fitted_parts().values():
            part.check_fitted()


@dataclass(frozen=True, eq=False)
class VectorPipeline(Pipeline[RegionDescriptors]):
    """A vector for each region, and an aggregator of them."""

    describer: Describer
    aggregator: Aggregator

    @property
    def dim(self) -> int:
        """See :attr:`Pipeline.dim`."""
        return self.describer.dim

    def query_whole(self, photo: Photo) -> RegionDescriptors:
        """See :meth:`Pipeline.query_whole`."""
        return describe_whole(self.describer, self.aggregator, photo)

    def query_boxes(self, photo: Photo, boxes: Regions, crop: str) -> RegionDescriptors:
        """See :meth:`Pipeline.query_boxes`."""
        return describe_boxes(self.describer, self.aggregator, photo, boxes, crop)

    def least_cut_side(self, boxes: Regions, crop: str) -> float | None:
        """See :meth:`Pipeline.least_cut_side`."""
        return least_cut_side(self.describer, self.aggregator, boxes, crop)


@dataclass(frozen=True, eq=False)
class FeaturePipeline(Pipeline[RegionFeatures]):
    """Local features in regions, and an aggregator of them."""

    describer: FeatureDescriber
    aggregator: FeatureAggregator

    @property
    def dim(self) -> int:
        """See :attr:`Pipeline.dim`."""
        return self.aggregator.dim

    def query_whole(self, photo: Photo) -> Described:
        """See :meth:`Pipeline.query_whole`."""
        return self.query_boxes(photo, Regions.whole(photo.size), "context")

    def query_boxes(self, photo: Photo, boxes: Regions, crop: str) -> Described:
        """See :meth:`Pipeline.query_boxes`."""
        return self.aggregator.aggregate_query(describe_feature_boxes(self.describer, photo, boxes, crop))

    def least_cut_side(self, boxes: Regions, crop: str) -> float | None:
        """See :meth:`Pipeline.least_cut_side`."""
        return least_longest_side(boxes) if crop == "crop" else None


def connected(describer: AnyDescriber, aggregator: AnyAggregator) -> Pipeline[Any]:
    """A pipeline of two steps that fit together.

    Raises:
        ValueError: They do not; both are named.
    """
    if isinstance(describer, Describer) and isinstance(aggregator, Aggregator):
        return VectorPipeline(describer, aggregator)
    if isinstance(describer, FeatureDescriber) and isinstance(aggregator, FeatureAggregator):
        return FeaturePipeline(describer, aggregator)
    fitting = [
        name
        for name in registry.names(ImageAggregator.kind)
        if registry.load(ImageAggregator, name).takes is describer.gives
    ]
    raise ValueError(
        f"aggregator: expected one of {IN_WORDS[describer.gives]}, which the describer {_name(describer)!r} gives, "
        f"such as {checks.listed(fitting)}, found {_name(aggregator)!r}, which takes {IN_WORDS[aggregator.takes]}"
    )


def vector_describer(describer: AnyDescriber, who: str) -> Describer:
    """A describer of vectors.

    Args:
        describer: What may be one.
        who: What needs it, for the message.

    Raises:
        ValueError: It gives local features.
    """
    if not isinstance(describer, Describer):
        raise ValueError(
            f"{who}: expected a describer of {IN_WORDS[RegionDescriptors]} such as 'pooled_regions', found "
            f"{_name(describer)!r}, which gives {IN_WORDS[describer.gives]}"
        )
    return describer


def _name(part: AnyDescriber | AnyAggregator) -> str:
    return part.registry_name or type(part).__name__
