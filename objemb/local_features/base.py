"""The contract of an extractor of local features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self, final

import torch
from torch import Tensor

from objemb import checks
from objemb.backbones.base import Backbone
from objemb.detectors.capabilities import DetectorPass, NetworkDetector
from objemb.layers.fitted import WithFittedParts
from objemb.layers.learned_attention import LearnedAttention
from objemb.registry import Plugin
from objemb.structures import LocalFeatures, Photo


class LocalExtractor(WithFittedParts, Plugin, ABC):
    """Computes the local features of photos: points, each with a vector, a scale and a strength.

    A plug-in computes them in :meth:`_extract`. Parts that are fitted on vectors, such as a PCA, are
    :class:`~objemb.layers.fitted.Fitted` submodules. The module stays in eval mode.

    Args:
        size: Longest side of a photo in pixels at scale 1; None for the size that :meth:`shared_detector` chooses.
        count: Maximum number of features of a photo, over all scales.
        backbone: Computes feature maps; None for a method without a network.

    Attributes:
        size, count, backbone: As given.
        scales: Factors on ``size``, in the order of the forward passes.
    """

    kind = "local_features"

    backbone: Backbone | None
    scales: tuple[float, ...] = (1.0,)

    def __init__(self, *, size: float | None, count: int, backbone: Backbone | None = None) -> None:
        super().__init__()
        self.size = None if size is None else checks.positive("size", size)
        self.count = checks.whole("count", count)
        self.backbone = backbone

    @property
    @abstractmethod
    def dim(self) -> int:
        """Length of the vectors."""

    @abstractmethod
    def decode_side(self) -> int | None:
        """The longest side in pixels that is needed, or None for full resolution; see ``Extractor.decode_side``."""

    @final
    @torch.no_grad()
    def extract(self, photos: Sequence[Photo], seen: DetectorPass | None = None) -> list[LocalFeatures]:
        """The local features of photos of any sizes.

        Args:
            photos: The batch; may be empty.
            seen: The pass of :meth:`shared_detector` over these photos, if there was one, so that it is not repeated.

        Returns:
            For each photo at most ``count`` features, possibly none, the strongest first, in original pixels.

        Raises:
            NotFittedError: A part has not been fitted.
        """
        self.check_fitted()
        return self._extract(photos, seen) if photos else []

    @abstractmethod
    def _extract(self, photos: Sequence[Photo], seen: DetectorPass | None) -> list[LocalFeatures]:
        """The features that :meth:`extract` returns, of at least one photo. Called without gradients.

        Args:
            photos: The photos.
            seen: None for an extractor without a :meth:`shared_detector`.
        """

    def shared_detector(self) -> NetworkDetector | None:
        """The detector from whose maps the features of scale 1 are read, if photos have the size that it chooses. One
        pass of it then yields boxes and features. None for other extractors."""
        return None

    def learned_attention(self) -> LearnedAttention:
        """The part whose attention the task ``attend`` trains.

        Raises:
            TypeError: The extractor has no such part.
        """
        name = self.registry_name or type(self).__name__
        raise TypeError(f"local_features: expected an extractor with a learned attention (attentive), found {name}")

    @final
    @torch.no_grad()
    def samples(self, part: str, photos: Sequence[Photo]) -> Tensor:
        """The vectors of some photos on which a part is fitted.

        Args:
            part: A key of :meth:`fitted_parts`; the parts before it have been fitted.
            photos: At least one photo, of any sizes.

        Returns:
            float32 ``(N, D)`` on the CPU; N may be 0.
        """
        return torch.cat([vectors.float().cpu() for vectors in self._samples(part, photos)])

    def _samples(self, part: str, photos: Sequence[Photo]) -> list[Tensor]:
        """The vectors of :meth:`samples` in at least one block ``(n, D)``, on any device. Called without gradients."""
        raise NotImplementedError(f"{self.registry_name}: expected no part that is fitted on vectors, found {part!r}")

    def for_part(self, part: tuple[int, int], whole: tuple[int, int]) -> Self:
        """A copy of the extractor that resizes a cropped part to the size it would have within the photo.

        Args:
            part: ``(height, width)`` of the part in original pixels.
            whole: ``(height, width)`` of the photo.
        """
        return self._with(size=self.side_of(whole) * max(part) / max(whole))

    def side_of(self, size: tuple[int, int]) -> float:
        """The longest side in pixels at scale 1 of an image of ``size`` ``(height, width)``."""
        if self.size is not None:
            return self.size
        detector = self.shared_detector()
        if detector is None:
            raise ValueError("size: expected a number of pixels, since no detector chooses one, found None")
        return max(detector.network_size(size))
