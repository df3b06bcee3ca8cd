"""Contracts of describers that can do more than describe: what training tasks and re-rankers ask for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from objemb.backbones.base import Backbone
from objemb.describers.base import Describer
from objemb.detectors.capabilities import NetworkDetector, NetworkInput
from objemb.extractors.base import Extractor
from objemb.heads.base import Head
from objemb.ops.grid import Grid
from objemb.regions.detections import Detections
from objemb.structures import Photo, Regions


class CropEmbedder(Describer):
    """A describer that embeds an input of its network as one region, so that crops can train it (task ``classify``)."""

    backbone: Backbone
    extractor: Extractor

    @abstractmethod
    def embed_crops(self, pixels: Tensor) -> Tensor:
        """Unit vectors of network inputs, each pooled as a whole, at one scale; with a gradient where one is wanted.

        Args:
            pixels: float ``(B, 3, h, w)``, RGB, 0 to 1, on the device of the backbone.

        Returns:
            float32 ``(B, raw_dim)``, not whitened.
        """


class PhotoEmbedder(Describer):
    """A describer whose vector of a whole photo can be learned end to end (task ``rank``).

    Attributes:
        whole_image: Whether the whole image joins the sum over regions, as for the aggregator ``sum``, which gives the
            same vector of a photo.
    """

    backbone: Backbone
    whole_image: bool

    @abstractmethod
    def embed_photos(self, photos: Sequence[Photo], regions: Sequence[Regions | None] | None = None) -> Tensor:
        """Vectors of photos at the first scale; with a gradient where one is wanted.

        Args:
            photos: The batch.
            regions: Per photo the boxes to sum up instead of finding some, or None, as for :meth:`Describer.describe`.

        Returns:
            float32 ``(B, raw_dim)``, unit vectors, not whitened, on the device of the network; zeros where there is no
            box.

        Raises:
            NotFittedError: A part has not learned yet.
        """

    @abstractmethod
    def learnable(self) -> nn.ModuleDict:
        """The parts that a training may change, by name."""


class BoxEmbedder(Describer):
    """A detector with an embedding head, which computes boxes and their vectors in one pass (task ``distill``).

    Attributes:
        regions: Selects among what the detector finds.
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
        """Vectors of boxes, not whitened; with a gradient where one is wanted.

        Args:
            photos: The photos.
            regions: Per photo its boxes in original pixels; zero boxes are a normal case.
            batch: What the detector's ``preprocess`` gave of the photos.
            features: What its ``features`` gave of that batch; None where nothing else needs them: then only the layers
                below the head run, and only if a box is described from them.
            unit: Whether to bring the vectors to unit length; else they are those of the head as they are, for a loss
                on their differences.
            projected: False for what the last layer of the head reads, ``(sum of N, F)``, see
                :meth:`objemb.heads.base.Head.pooled`.

        Returns:
            float32 ``(sum of N, raw_dim)`` on the device of the network: the boxes of the first photo, then of the
            second, and so on.
        """


@dataclass(frozen=True, eq=False)
class ClassMaps:
    """Where some classes are active on a photo.

    Attributes:
        classes: int64 ``(n,)``, rows of the network's layer of classes.
        scores: float32 ``(n,)``, their probabilities.
        maps: float32 ``(n, h, w)``, class activation maps, each scaled from 0 to 1; zeros for a class that is active
            nowhere.
        grid: Where the cells of the maps lie.
    """

    classes: Tensor
    scores: Tensor
    maps: Tensor
    grid: Grid


class ClassDescriber(Describer):
    """A describer that knows where classes are active on a photo (re-ranker ``class_localization``)."""

    @abstractmethod
    def class_maps(self, photos: Sequence[Photo], classes: Sequence[Sequence[int]] | None = None) -> list[ClassMaps]:
        """The activation maps of classes.

        Args:
            photos: A batch of any sizes.
            classes: Per photo the classes; None for those that :meth:`describe` uses, the likeliest first.

        Raises:
            ValueError: No such class, or not one list per photo.
        """

    @abstractmethod
    def describe_as(self, photo: Photo, boxes: Regions, classes: Sequence[int]) -> Tensor:
        """Boxes of a photo, weighted by the activation of some classes: the vectors by which the first hits and their
        query are compared.

        Args:
            photo: One photo.
            boxes: ``(n, 4)``; a box covers every cell that it touches. The channel weights are those of its own cells.
            classes: Numbers of classes, those of the query.

        Returns:
            float32 ``(n, dim)`` on the CPU, unit vectors: the sum over the classes of their whitened unit vectors.

        Raises:
            ValueError: No class, or no such class.
        """
