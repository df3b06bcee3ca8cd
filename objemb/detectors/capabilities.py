"""The contract of detectors that are networks, and their input."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from objemb.detectors.base import Detector
from objemb.layers.frozen import Frozen
from objemb.layers.precision import computed
from objemb.structures import Photo, Regions

#: Prefix of the names of trunk levels, followed by their stride: ``trunk8``.
TRUNK = "trunk"


@dataclass(frozen=True, eq=False)
class NetworkInput:
    """A batch of photos as the input of a network.

    Attributes:
        tensors: float ``(B, 3, h, w)``, resized, normalised and, at the right and bottom, padded to one size.
        image_sizes: ``(height, width)`` of each photo in it, in network pixels, without padding.
    """

    tensors: Tensor
    image_sizes: list[tuple[int, int]]


@dataclass(frozen=True, eq=False)
class DetectorPass:
    """The input and maps of a detector for a batch of photos, for other parts that use its maps.

    Attributes:
        batch: The input of the network.
        maps: At least the maps that are used, by name, ``(B, C, h, w)`` each.
    """

    batch: NetworkInput
    maps: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class PaddedBoxes:
    """The detections of a program in a photo, padded to K rows, of which the first ``count`` are boxes, best first.

    Attributes:
        boxes: float32 ``(K, 4)``, zeros from ``count`` on.
        scores: float32 ``(K,)``.
        labels: int64 ``(K,)``, 0-based.
        count: int64 ``()``.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    count: Tensor


class DetectionProgram(nn.Module, ABC):
    """The inference of a detector as functions of tensors, for exporters, which cannot trace lists of photos.

    It shares the layers of the detector. The maps are computed by :meth:`NetworkDetector.features`.
    """

    @abstractmethod
    def prepared(self, photos: Tensor) -> tuple[Tensor, Tensor]:
        """The network's input for photos of one size, as :meth:`NetworkDetector.preprocess` computes it.

        Args:
            photos: uint8 ``(B, H, W, 3)``, RGB.

        Returns:
            float32 ``(B, 3, h, w)``, and the float32 ``(2,)`` height and width of the photos within it.
        """

    @abstractmethod
    def normalised(self, pixels: Tensor) -> Tensor:
        """Normalise images float32 ``(B, 3, h, w)``, RGB, 0 to 1, as :meth:`NetworkDetector.normalised` does."""

    @abstractmethod
    def forward(
        self, features: Mapping[str, Tensor], padded: tuple[int, int], size: Tensor, min_score: float
    ) -> PaddedBoxes:
        """The detections in one photo, in pixels of the network's input.

        Args:
            features: The maps of the photo, ``(1, C, h, w)`` each, in the order of :meth:`NetworkDetector.features`.
            padded: ``(h, w)`` of the network's input.
            size: float32 ``(2,)``, height and width of the photo within it.
            min_score: Boxes with lower scores are not needed.
        """

    @abstractmethod
    def proposals(self, features: Mapping[str, Tensor], padded: tuple[int, int], size: Tensor) -> tuple[Tensor, Tensor]:
        """The boxes of :meth:`NetworkDetector.proposals` in one photo, in pixels of the network's input.

        Args:
            features, padded, size: As for :meth:`forward`.

        Returns:
            Boxes float32 ``(P, 4)``, best first, and bool ``(P,)``, true for rows that are proposals, not padding.
        """


class NetworkDetector(Frozen, Detector):
    """A detector that is a network, whose steps are separate methods, so that its feature maps can be used by other
    parts and it can be trained.

    ::

        photos ── groups, preprocess ── NetworkInput ── features ── maps by name ──┬── regions
                                                                                   └── losses (with true boxes)

    Feature maps are the *pyramid* levels that it pools boxes from, and *trunk* levels, ``trunk4`` to ``trunk32``: the
    last map of each stride of the classification network below. The detector stays in eval mode even while it is
    trained, so that normalisation layers keep their statistics.

    Attributes:
        pyramid: Names of the pyramid levels, the finest first.
        unused_head: The file of the detector's weights, if it holds a trained embedding head, which belongs to a
            describer; otherwise None.
        random_parts: Parts of the network that the file of its weights does not have; they have random values.
    """

    pyramid: tuple[str, ...]
    unused_head: Path | None = None
    random_parts: tuple[str, ...] = ()

    @abstractmethod
    def groups(self, photos: Sequence[Photo]) -> list[list[int]]:
        """Indices of photos that may share a batch, because they need no more padding together than separately."""

    @abstractmethod
    def network_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """``(height, width)`` of an image of ``size`` ``(height, width)`` as the network's input, without padding."""

    @abstractmethod
    def preprocess(self, photos: Sequence[Photo]) -> NetworkInput:
        """Resize, normalise and pad photos to a batch on the device of the network."""

    @abstractmethod
    def normalised(self, pixels: Tensor) -> NetworkInput:
        """Normalise images ``(B, 3, h, w)``, RGB, 0 to 1, as the network expects, without resizing or padding."""

    @abstractmethod
    def features(self, batch: NetworkInput) -> dict[str, Tensor]:
        """At least all maps of :meth:`levels`, ``(B, C, h, w)`` each, from one pass of the backbone."""

    def maps(self, batch: NetworkInput, names: Sequence[str]) -> dict[str, Tensor]:
        """Only those maps of :meth:`features` that are named.

        Args:
            batch: The photos.
            names: Keys of :meth:`levels`. The layers above the named trunk levels do not run, if the detector can stop
                there.
        """
        return {name: map_ for name, map_ in self.features(batch).items() if name in names}

    @abstractmethod
    def levels(self) -> dict[str, tuple[int, int]]:
        """Channels and stride (network pixels from cell to cell) of each pyramid level, then of each trunk level."""

    @abstractmethod
    def regions(self, batch: NetworkInput, features: dict[str, Tensor], photos: Sequence[Photo]) -> list[Regions]:
        """The detections of a batch, as :meth:`detect` returns them: in original pixels of its photos."""

    @abstractmethod
    def proposals(self, batch: NetworkInput, features: dict[str, Tensor], photos: Sequence[Photo]) -> list[Regions]:
        """Boxes of the region proposal network, best first, in original pixels.

        They have no gradients, scores or labels, and are meant for other heads than the detector's own. The features
        are given, so that proposals and pooled features come from one pass; :meth:`propose` is for proposals only.
        """

    @abstractmethod
    def losses(
        self, batch: NetworkInput, features: dict[str, Tensor], targets: Sequence[Regions], photos: Sequence[Photo]
    ) -> dict[str, Tensor]:
        """The detector's losses for ground-truth boxes, by name; their sum is minimised.

        Args:
            batch: The photos.
            features: Features of the batch, with gradients if the backbone is trained as well.
            targets: The true boxes of each photo in *original* pixels, labels 0-based as in ``classes``. A photo
                without boxes is an example of background.
            photos: The photos of the batch.

        Returns:
            Scalars; finite and differentiable even for a batch without boxes. Random samples are drawn with torch's
            default generator, so that ``torch.manual_seed`` makes them reproducible.

        Raises:
            ValueError: A label is not a class of the detector.
        """

    def proposal_losses(
        self, batch: NetworkInput, features: dict[str, Tensor], targets: Sequence[Regions]
    ) -> dict[str, Tensor]:
        """Those of :meth:`losses` that train the region proposal network, whose :meth:`proposals` are class-agnostic.

        Args:
            batch: As for :meth:`losses`.
            features: As for :meth:`losses`.
            targets: As for :meth:`losses`; labels are ignored.

        Raises:
            TypeError: This detector has no proposal network that can be trained by itself.
        """
        raise TypeError(
            "detector: expected one whose proposals can be trained by themselves (faster_rcnn, torchvision_rcnn, "
            f"detectron2_rcnn), found {self.registry_name or type(self).__name__}"
        )

    def program(self) -> DetectionProgram:
        """The inference of this detector for exporters; it shares the layers.

        Raises:
            TypeError: This detector cannot be exported.
        """
        raise TypeError(
            "detector: expected one that can be exported (faster_rcnn, torchvision_rcnn, detectron2_rcnn), found "
            f"{self.registry_name or type(self).__name__}"
        )

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Number of classes without the background; 1 is class-agnostic."""

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """Mean ``(3,)`` that is subtracted from RGB, 0 to 1."""

    @property
    @abstractmethod
    def std(self) -> Tensor:
        """Standard deviation ``(3,)`` by which the difference is divided."""

    @torch.no_grad()
    def detect(self, photos: Sequence[Photo]) -> list[Regions]:
        """Boxes of a batch of photos of any sizes, in original pixels; see :class:`Detector`."""
        return self._by_group(photos, self.regions)

    @torch.no_grad()
    def propose(self, photos: Sequence[Photo]) -> list[Regions]:
        """Proposals of a batch of photos of any sizes: one pass of the backbone and of the proposal network.

        Returns:
            For each photo, its :meth:`proposals`: boxes in original pixels, best first.
        """
        return self._by_group(photos, self.proposals)

    def _by_group(self, photos: Sequence[Photo], heads: Callable[..., list[Regions]]) -> list[Regions]:
        """The output of ``heads`` for the features of each photo; the photos of a group share a batch."""
        regions: dict[int, Regions] = {}
        for numbers in self.groups(photos):
            group = [photos[i] for i in numbers]
            batch = self.preprocess(group)
            features = computed(batch.tensors.device, self.features, batch)
            regions.update(zip(numbers, heads(batch, features, group), strict=True))
        return [regions[i] for i in range(len(photos))]
