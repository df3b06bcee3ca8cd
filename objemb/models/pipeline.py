"""A describer with an aggregator: from photos to the rows of an index, and to those of a query."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias

import numpy as np
from torch import Tensor

from objemb import checks, registry
from objemb.aggregators.base import Aggregator, FeatureAggregator, ImageAggregator, Taken
from objemb.describers.base import Describer, PhotoDescriber
from objemb.describers.capabilities import FeatureDescriber
from objemb.layers.fitted import Fitted
from objemb.models.base import least_longest_side
from objemb.structures import Described, Photo, RegionDescriptors, RegionFeatures, Regions
from objemb.structures.described import IN_WORDS

AnyDescriber: TypeAlias = Describer | FeatureDescriber
AnyAggregator: TypeAlias = Aggregator | FeatureAggregator
#: Prefix of the parts of the aggregator among those of a model.
AGGREGATOR = "aggregator."
#: What becomes of a box: a region of its photo, or a picture that is cut out of it, which enters the network as large
#: as it would in its photo, or as large as a photo.
REGION, PART, ALONE = "region", "part", "alone"


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
        """One row for each box, in their order and in the frame of the photo; ``crop`` as for a model's ``query``."""

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

    def most_samples(self, part: str, *, boxed: bool) -> int | None:
        """The most vectors that a part learns from in one photo; None where that is not known.

        Args:
            part: A key of :meth:`fitted_parts`.
            boxed: Whether boxes of the photos are given.
        """
        del part, boxed
        return None

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
        """See :meth:`Pipeline.query_whole`: region 0 where regions are indexed, else the row of the photo itself."""
        whole = Regions.whole(photo.size)
        given = [whole] if self.aggregator.per_region and self.describer.queries_in_context(True) else None
        row = self.aggregator.aggregate(self.describer.describe([photo], given)[0]).vectors[:1]
        return RegionDescriptors(photo.id, whole, row, photo.metadata)

    def query_boxes(self, photo: Photo, boxes: Regions, crop: str) -> RegionDescriptors:
        """See :meth:`Pipeline.query_boxes`.

        Where the index has a row per region, a box is one region. Where an image is summed up to one row, a box is an
        image of its own: it is cut out, described with the method's own regions, and summed up in the same way. Unless
        ``crop`` says otherwise, it enters the network at the scale of its photo, as the benchmarks of this field and
        the programs that the authors of R-MAC, deep image retrieval, GeM and regional attention released have it: the
        objects of the database were described at that scale, too.
        """
        if len(boxes) == 0:
            return RegionDescriptors(photo.id, boxes, np.zeros((0, self.dim), np.float32), photo.metadata)
        if crop == "whole":
            whole = self.query_whole(photo).vectors
            return RegionDescriptors(photo.id, boxes, whole.repeat(len(boxes), axis=0), photo.metadata)
        becomes = self._becomes(crop)
        if becomes == REGION:
            return self.describer.describe([photo], [boxes])[0]
        vectors = []
        for box in boxes:
            cut = photo.part(box)
            describer = self.describer.for_part(cut.size, photo.size) if becomes == PART else self.describer
            vectors.append(VectorPipeline(describer, self.aggregator).query_whole(cut).vectors)
        return RegionDescriptors(photo.id, boxes, np.concatenate(vectors), photo.metadata)

    def least_cut_side(self, boxes: Regions, crop: str) -> float | None:
        """See :meth:`Pipeline.least_cut_side`."""
        return None if crop == "whole" or self._becomes(crop) != ALONE else least_longest_side(boxes)

    def _becomes(self, crop: str) -> str:
        """One of :data:`REGION`, :data:`PART` and :data:`ALONE`."""
        if crop == "crop":
            return ALONE
        describer, per_region = self.describer, self.aggregator.per_region
        has_scale = describer.extractor is not None
        # a region has the scale of its photo; to be one among regions, a part that is cut out is described as one
        keeps_scale = crop == "context" or not has_scale or not per_region
        if describer.queries_in_context(per_region) and keeps_scale:
            return REGION
        return PART if has_scale else ALONE


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
        """See :meth:`Pipeline.query_boxes`: the features inside each box, or those of a picture that is cut out
        (``crop``, ``scaled``), or those of the photo for every box (``whole``)."""
        return self.aggregator.aggregate_query(self._features_of(photo, boxes, crop))

    def least_cut_side(self, boxes: Regions, crop: str) -> float | None:
        """See :meth:`Pipeline.least_cut_side`."""
        return least_longest_side(boxes) if crop == "crop" else None

    def most_samples(self, part: str, *, boxed: bool) -> int | None:
        """See :meth:`Pipeline.most_samples`."""
        features = self.describer.most_features(boxed=boxed)
        if features is None or not part.startswith(AGGREGATOR):
            return features
        return self.aggregator.most_samples(part.removeprefix(AGGREGATOR), features)

    def _features_of(self, photo: Photo, boxes: Regions, crop: str) -> RegionFeatures:
        """The local features by which boxes are searched for, in their order."""
        if crop in ("crop", "scaled"):
            return self.describer.describe_parts(photo, boxes, scaled=crop == "scaled")
        if crop != "whole":
            return self.describer.describe([photo], [boxes])[0]
        whole = self.describer.describe([photo], [Regions.whole(photo.size)])[0]
        features = np.tile(whole.of_region(0), len(boxes))
        members = np.stack([np.repeat(np.arange(len(boxes)), len(whole.of_region(0))), features], axis=1)
        return RegionFeatures(photo.id, boxes, whole.features, members, photo.metadata)


def connected(describer: AnyDescriber, aggregator: AnyAggregator) -> VectorPipeline | FeaturePipeline:
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
