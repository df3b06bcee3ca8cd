"""A describer combined with an aggregator: computes the rows of an index and of a query from photos."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias

import numpy as np
from torch import Tensor

from objemb import checks, registry
from objemb.aggregators.base import Aggregator, FeatureAggregator, ImageAggregator, Taken
from objemb.describers.base import Describer, PhotoDescriber
from objemb.describers.capabilities import FeatureDescriber
from objemb.layers.fitted import Fitted
from objemb.models.base import ALONE, PART, REGION, least_longest_side
from objemb.structures import Described, Photo, RegionDescriptors, RegionFeatures, Regions
from objemb.structures.described import IN_WORDS, expect_vectors
from objemb.types import Float32Array

AnyDescriber: TypeAlias = Describer | FeatureDescriber
AnyAggregator: TypeAlias = Aggregator | FeatureAggregator
#: Prefix of the names of the aggregator's parts.
AGGREGATOR = "aggregator."


class Pipeline(ABC, Generic[Taken]):
    """A describer and an aggregator, with vectors or visual words as rows.

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
    def query_whole(self, photos: Sequence[Photo]) -> list[Described]:
        """The single query row of each photo as a whole."""

    @abstractmethod
    def query_boxes(self, photos: Sequence[Photo], boxes: Sequence[Regions], crop: str) -> list[Described]:
        """One query row per box of each photo, in order and in the frame of the photo; ``crop`` as for a model's
        ``query``."""

    @abstractmethod
    def least_cut_side(self, boxes: Regions, crop: str) -> float | None:
        """Longest side, in original pixels, of the smallest box that is cut out and described at the size of a photo;
        None if no box is."""

    def query_shapes(self, photo: Photo, boxes: Regions | None, crop: str) -> Hashable | None:
        """See :meth:`EmbeddingModel.shapes_of`; ``boxes`` is None for the whole photo."""
        del photo, boxes, crop
        return None

    def rows(self, photos: Sequence[Photo], given: Sequence[Regions | None] | None = None) -> list[Described]:
        """Rows of each photo for an index; ``given`` are regions, as for ``describer.describe``."""
        return [self.aggregator.aggregate(one) for one in self.describer.describe(photos, given)]

    def samples(self, part: str, photos: Sequence[Photo], given: Sequence[Regions | None] | None = None) -> Tensor:
        """The vectors of photos to which a part is fitted, float ``(N, D)``; ``part`` is a key of
        :meth:`fitted_parts`."""
        if part.startswith(AGGREGATOR):
            return self.aggregator.samples(part.removeprefix(AGGREGATOR), self.describer.describe(photos, given))
        return self.describer.samples(part, photos, given)

    def most_samples(self, part: str, *, boxed: bool) -> int | None:
        """Maximum number of vectors per photo to which a part is fitted; None if unknown.

        Args:
            part: A key of :meth:`fitted_parts`.
            boxed: Whether boxes are given for the photos.
        """
        del part, boxed
        return None

    def fitted_parts(self) -> dict[str, Fitted]:
        """Parts to be fitted, by dotted name, in the order of fitting: those of the describer come first."""
        own = {f"{AGGREGATOR}{name}": part for name, part in self.aggregator.fitted_parts().items()}
        return {**self.describer.fitted_parts(), **own}

    def unfitted(self) -> list[str]:
        """Names of the parts that are not fitted yet, in the order of fitting."""
        return [name for name, part in self.fitted_parts().items() if not part.is_fitted]

    def check_fitted(self) -> None:
        """Raise :class:`~objemb.checks.NotFittedError` if a part is not fitted."""
        for part in self.fitted_parts().values():
            part.check_fitted()


@dataclass(frozen=True, eq=False)
class VectorPipeline(Pipeline[RegionDescriptors]):
    """A describer that computes a vector per region, and an aggregator of vectors."""

    describer: Describer
    aggregator: Aggregator

    @property
    def dim(self) -> int:
        """See :attr:`Pipeline.dim`."""
        return self.describer.dim

    def query_whole(self, photos: Sequence[Photo]) -> list[Described]:
        """See :meth:`Pipeline.query_whole`: region 0 if regions are indexed, else the row of the photo."""
        wholes = [Regions.whole(photo.size) for photo in photos]
        in_context = self.aggregator.per_region and self.describer.queries_in_context(True)
        described = self.describer.describe(photos, wholes if in_context else None)
        return [
            RegionDescriptors(photo.id, whole, self.aggregator.aggregate(one).vectors[:1], photo.metadata)
            for photo, whole, one in zip(photos, wholes, described, strict=True)
        ]

    def query_boxes(self, photos: Sequence[Photo], boxes: Sequence[Regions], crop: str) -> list[Described]:
        """See :meth:`Pipeline.query_boxes`.

        If the index has one row per region, a box is described as one region. If it has one row per image, a box is
        described as an image: it is cut out, described with the method's own regions, and aggregated in the same way.
        By default (``context``) it enters the network at the scale of its photo, the scale at which the objects of the
        database were described. This is the convention of retrieval benchmarks and of the code released by the authors
        of R-MAC, deep image retrieval, GeM and regional attention.
        """
        rows = [np.zeros((0, self.dim), np.float32) for _ in photos]
        some = [number for number, given in enumerate(boxes) if len(given)]
        of_some = [photos[number] for number in some]
        becomes = REGION if crop == "whole" else self._becomes(crop)
        if crop == "whole":
            for number, whole in zip(some, self._whole_rows(of_some), strict=True):
                rows[number] = whole.repeat(len(boxes[number]), axis=0)
        elif becomes == REGION:
            for number, one in zip(some, self.describer.describe(of_some, [boxes[n] for n in some]), strict=True):
                rows[number] = one.vectors
        else:
            for number in some:
                rows[number] = self._cut_rows(photos[number], boxes[number], becomes)
        return [
            RegionDescriptors(photo.id, given, vectors, photo.metadata)
            for photo, given, vectors in zip(photos, boxes, rows, strict=True)
        ]

    def _whole_rows(self, photos: Sequence[Photo]) -> list[Float32Array]:
        """The vector of each photo as a whole: float32 ``(1, D)``."""
        return [expect_vectors("query", whole).vectors for whole in self.query_whole(photos)]

    def _cut_rows(self, photo: Photo, boxes: Regions, becomes: str) -> Float32Array:
        """Vectors of boxes that are cut out one by one: float32 ``(N, D)``."""
        vectors = []
        for box in boxes:
            cut = photo.part(box)
            describer = self.describer.for_part(cut.size, photo.size) if becomes == PART else self.describer
            vectors += VectorPipeline(describer, self.aggregator)._whole_rows([cut])
        return np.concatenate(vectors)

    def query_shapes(self, photo: Photo, boxes: Regions | None, crop: str) -> Hashable | None:
        """See :meth:`Pipeline.query_shapes`."""
        if boxes is None or crop == "whole":
            if self.aggregator.per_region and self.describer.queries_in_context(True):
                return self.describer.pass_shapes(photo, Regions.whole(photo.size))
            # rigid regions follow from the size of the photo, those of a detector are not known before
            return None if self.describer.detector is not None else (photo.size, photo.pixels.shape)
        if not len(boxes) or self._becomes(crop) != REGION:  # parts that are cut out are described one by one
            return None
        return self.describer.pass_shapes(photo, boxes)

    def least_cut_side(self, boxes: Regions, crop: str) -> float | None:
        """See :meth:`Pipeline.least_cut_side`."""
        return None if crop == "whole" or self._becomes(crop) != ALONE else least_longest_side(boxes)

    def _becomes(self, crop: str) -> str:
        """One of :data:`REGION`, :data:`PART` and :data:`ALONE`."""
        if crop == "crop":
            return ALONE
        describer, per_region = self.describer, self.aggregator.per_region
        has_scale = describer.extractor is not None
        # a region has the scale of its photo; with one row per region, a part that is cut out is described as a region
        keeps_scale = crop == "context" or not has_scale or not per_region
        if describer.queries_in_context(per_region) and keeps_scale:
            return REGION
        return PART if has_scale else ALONE


@dataclass(frozen=True, eq=False)
class FeaturePipeline(Pipeline[RegionFeatures]):
    """A describer that computes local features, and an aggregator of them."""

    describer: FeatureDescriber
    aggregator: FeatureAggregator

    @property
    def dim(self) -> int:
        """See :attr:`Pipeline.dim`."""
        return self.aggregator.dim

    def query_whole(self, photos: Sequence[Photo]) -> list[Described]:
        """See :meth:`Pipeline.query_whole`."""
        return self.query_boxes(photos, [Regions.whole(photo.size) for photo in photos], "context")

    def query_boxes(self, photos: Sequence[Photo], boxes: Sequence[Regions], crop: str) -> list[Described]:
        """See :meth:`Pipeline.query_boxes`: the features inside each box (``context``), those of the box cut out
        (``crop``, ``scaled``), or those of the whole photo for every box (``whole``)."""
        return [self.aggregator.aggregate_query(features) for features in self._features_of(photos, boxes, crop)]

    def least_cut_side(self, boxes: Regions, crop: str) -> float | None:
        """See :meth:`Pipeline.least_cut_side`."""
        return least_longest_side(boxes) if crop == "crop" else None

    def most_samples(self, part: str, *, boxed: bool) -> int | None:
        """See :meth:`Pipeline.most_samples`."""
        features = self.describer.most_features(boxed=boxed)
        if features is None or not part.startswith(AGGREGATOR):
            return features
        return self.aggregator.most_samples(part.removeprefix(AGGREGATOR), features)

    def _features_of(self, photos: Sequence[Photo], boxes: Sequence[Regions], crop: str) -> list[RegionFeatures]:
        """The local features with which the boxes of each photo are searched for, in the order of the boxes."""
        if crop in ("crop", "scaled"):
            return [
                self.describer.describe_parts(photo, given, scaled=crop == "scaled")
                for photo, given in zip(photos, boxes, strict=True)
            ]
        if crop != "whole":
            return self.describer.describe(photos, boxes)
        wholes = self.describer.describe(photos, [Regions.whole(photo.size) for photo in photos])
        return [_of_every_box(whole, given) for whole, given in zip(wholes, boxes, strict=True)]


def _of_every_box(whole: RegionFeatures, boxes: Regions) -> RegionFeatures:
    """The features of a whole photo as those of each of its boxes."""
    inside = whole.of_region(0)
    members = np.stack([np.repeat(np.arange(len(boxes)), len(inside)), np.tile(inside, len(boxes))], axis=1)
    return RegionFeatures(whole.image, boxes, whole.features, members, whole.metadata)


def connected(describer: AnyDescriber, aggregator: AnyAggregator) -> VectorPipeline | FeaturePipeline:
    """A pipeline of two steps that fit together.

    Raises:
        ValueError: They do not fit; the message names both.
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
    """The describer, if it computes vectors.

    Args:
        describer: Any describer.
        who: Name of the component that needs vectors, for the message.

    Raises:
        ValueError: The describer computes local features.
    """
    if not isinstance(describer, Describer):
        raise ValueError(
            f"{who}: expected a describer of {IN_WORDS[RegionDescriptors]} such as 'pooled_regions', found "
            f"{_name(describer)!r}, which gives {IN_WORDS[describer.gives]}"
        )
    return describer


def _name(part: AnyDescriber | AnyAggregator) -> str:
    return part.registry_name or type(part).__name__
