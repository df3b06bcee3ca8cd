"""Contracts of describers of local features, and of describers that training tasks and re-rankers need."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor, nn

from objemb.backbones.base import Backbone
from objemb.describers.base import Describer, PhotoDescriber, checked_given
from objemb.detectors.capabilities import NetworkDetector, NetworkInput
from objemb.extractors.base import Extractor
from objemb.heads.base import Head
from objemb.local_features.base import LocalExtractor
from objemb.ops.grid import Grid
from objemb.regions.base import RegionSource
from objemb.regions.detections import Detections
from objemb.structures import Photo, RegionFeatures, Regions


class FeatureDescriber(PhotoDescriber[RegionFeatures]):
    """Finds regions of photos and the local features in them, which an aggregator turns into rows of an index.

    A plug-in does this in :meth:`_describe`. Its fitted parts are :class:`~objemb.layers.fitted.Fitted` submodules.

    Args:
        local_features: Computes the features.
        regions: Chooses the regions; None for the whole image only.

    Attributes:
        local_features, regions: As given.
        backbone, scales: Backbone and scales of the extractor.
    """

    gives = RegionFeatures

    local_features: LocalExtractor

    def __init__(self, *, local_features: LocalExtractor, regions: RegionSource | None = None) -> None:
        super().__init__(regions=regions)
        self.local_features = local_features
        # not registered as a submodule, because the backbone is saved as part of the extractor
        object.__setattr__(self, "backbone", local_features.backbone)
        self.scales = local_features.scales

    @abstractmethod
    def most_features(self, *, boxed: bool) -> int | None:
        """The most local features of a photo; None where that is not known, as of regions that are cut out.

        Args:
            boxed: Whether boxes of the photos are given.
        """

    def with_local_features(self, extractor: LocalExtractor) -> Self:
        """This describer with another extractor of the same kind of features. Everything else is shared with this
        one."""
        return self._with(local_features=extractor)

    @final
    @torch.no_grad()
    def describe(
        self, photos: Sequence[Photo], regions: Sequence[Regions | None] | None = None
    ) -> list[RegionFeatures]:
        """See :meth:`PhotoDescriber.describe`: regions with their local features."""
        given = checked_given(photos, regions)
        return self._describe(photos, given) if photos else []

    @abstractmethod
    def _describe(self, photos: Sequence[Photo], given: Sequence[Regions | None]) -> list[RegionFeatures]:
        """The result of :meth:`describe` for at least one photo; no gradient is recorded.

        Args:
            photos: The photos.
            given: For each photo, the boxes to describe, or None to find its regions.
        """

    @abstractmethod
    def describe_parts(self, photo: Photo, boxes: Regions, *, scaled: bool) -> RegionFeatures:
        """The features of boxes that are cut out of a photo and described as separate images. Positions of features are
        those in the photo.

        Args:
            photo: The photo.
            boxes: The boxes; there may be none.
            scaled: Whether a part enters the extractor at the scale that it has in its photo, instead of the size of a
                photo.
        """


class CropEmbedder(Describer):
    """A describer that embeds an input of its network as one region, so that it can be trained on crops (task
    ``classify``)."""

    backbone: Backbone
    extractor: Extractor

    @abstractmethod
    def embed_crops(self, pixels: Tensor) -> Tensor:
        """Unit vectors of network inputs, each pooled as a whole, at one scale; differentiable.

        Args:
            pixels: float ``(B, 3, h, w)``, RGB, 0 to 1, on the device of the backbone.

        Returns:
            float32 ``(B, raw_dim)``, before whitening.
        """


class PhotoEmbedder(Describer):
    """A describer whose vector of a whole photo can be trained end to end (task ``rank``).

    Attributes:
        whole_image: Whether the whole image is part of the sum over regions, as for the aggregator ``sum``, which gives
            the same vector of a photo.
    """

    backbone: Backbone
    whole_image: bool

    @abstractmethod
    def embed_photos(
        self, photos: Sequence[Photo], regions: Sequence[Regions | None] | None = None, *, factor: float = 1.0
    ) -> Tensor:
        """Vectors of photos at the first scale; differentiable.

        Args:
            photos: The batch.
            regions: For each photo, the boxes to sum, or None to find regions, as for :meth:`Describer.describe`.
            factor: On that scale, to train at several resolutions.

        Returns:
            float32 ``(B, raw_dim)``, unit vectors before whitening, on the device of the network; zeros for a photo
            without boxes.

        Raises:
            NotFittedError: A part has not been fitted yet.
        """

    @abstractmethod
    def learnable(self) -> nn.ModuleDict:
        """The parts that training may change, by name."""


class BoxEmbedder(Describer):
    """A detector with an embedding head, which computes boxes and their vectors in one pass (task ``distill``).

    Attributes:
        regions: Selects boxes among those of the detector.
        head: The embedding head.
    """

    regions: Detections
    head: Head

    @property
    @abstractmethod
    def detector(self) -> NetworkDetector:
        """The detector."""

    @abstractmethod
    def embed_boxes(
        self,
        photos: Sequence[Photo],
        regions: Sequence[Regions],
        batch: NetworkInput,
        features: Mapping[str, Tensor] | None = None,
        *,
        unit: bool = True,
        projected: bool = True,
    ) -> Tensor:
        """Vectors of boxes before whitening; differentiable.

        Args:
            photos: The photos.
            regions: The boxes of each photo in original pixels; there may be none.
            batch: The result of the detector's ``preprocess`` for these photos.
            features: The result of its ``features`` for that batch; None if nothing else needs them. Then only the
                layers below the head run, and only if boxes are described from them.
            unit: Whether to normalise the vectors; False gives the output of the head, for a loss on differences.
            projected: False for the input of the head's last layer, ``(sum of N, F)``, see
                :meth:`objemb.heads.base.Head.pooled`.

        Returns:
            float32 ``(sum of N, raw_dim)`` on the device of the network: the boxes of the first photo, then of the
            second, and so on.
        """


@dataclass(frozen=True, eq=False)
class ClassMaps:
    """Class activation maps of a photo.

    Attributes:
        classes: int64 ``(n,)``, rows of the network's classification layer.
        scores: float32 ``(n,)``, their probabilities.
        maps: float32 ``(n, h, w)``, class activation maps, each scaled from 0 to 1; zeros for a class that is not
            active anywhere.
        grid: The positions of the maps' cells.
    """

    classes: Tensor
    scores: Tensor
    maps: Tensor
    grid: Grid


class ClassDescriber(Describer):
    """A describer that computes class activation maps of a photo (re-ranker ``class_localization``)."""

    @abstractmethod
    def class_maps(self, photos: Sequence[Photo], classes: Sequence[Sequence[int]] | None = None) -> list[ClassMaps]:
        """The activation maps of classes.

        Args:
            photos: A batch of any sizes.
            classes: The classes of each photo; None for those that :meth:`describe` uses, the most probable first.

        Raises:
            ValueError: A class does not exist, or there is not one list per photo.
        """

    @abstractmethod
    def describe_as(self, photo: Photo, boxes: Regions, classes: Sequence[int]) -> Tensor:
        """Vectors of boxes of a photo, weighted by the activation of given classes, for comparing the first hits with
        their query.

        Args:
            photo: The photo.
            boxes: ``(n, 4)`` in original pixels; a box covers every cell that it touches. The channel weights are those
                of its own cells.
            classes: Indices of the query's classes.

        Returns:
            float32 ``(n, dim)`` on the CPU, unit vectors: the sum over the classes of their whitened unit vectors.

        Raises:
            ValueError: There are no classes, or a class does not exist.
        """
