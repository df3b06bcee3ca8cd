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
    """Computes the local features of photos: points with a vector, a scale and a strength each.

    A plug-in computes them in :meth:`_extract`. Parts that learn from vectors, such as a PCA, are
    :class:`~objemb.layers.fitted.Fitted` submodules. It stays in eval mode.

    Args:
        size: Longest side of a photo in pixels at scale 1; None for that at which :meth:`shared_detector` takes it.
        count: The most features of a photo, over all scales.
        backbone: Computes feature maps; None for a method without a network.

    Attributes:
        size, count, backbone: As given.
        scales: Factors on ``size``, in the order in which the backbone gets a photo.
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
        """The longest side in pixels that is of use, or None for full resolution; see ``Extractor.decode_side``."""

    @final
    @torch.no_grad()
    def extract(self, photos: Sequence[Photo], seen: DetectorPass | None = None) -> list[LocalFeatures]:
        """The local features of photos of any sizes.

        Args:
            photos: The batch; zero photos give an empty list.
            seen: What :meth:`shared_detector` has computed of these photos, so that it is not computed once more.

        Returns:
            Per photo at most ``count`` features, the strongest first, in original pixels; none where a photo has none.

        Raises:
            NotFittedError: A part has not learned yet.
        """
        self.check_fitted()
        return self._extract(photos, seen) if photos else []

    @abstractmethod
    def _extract(self, photos: Sequence[Photo], seen: DetectorPass | None) -> list[LocalFeatures]:
        """What :meth:`extract` returns; at least one photo, no gradient is recorded.

        Args:
            photos: The photos.
            seen: None for an extractor without a :meth:`shared_detector`.
        """

    def shared_detector(self) -> NetworkDetector | None:
        """The detector whose maps the features are read from at scale 1, as it takes photos itself, so that one pass of
        it gives boxes and features; None for other extractors."""
        return None

    def learned_attention(self) -> LearnedAttention:
        """The part whose attention the task ``attend`` trains.

        Raises:
            TypeError: There is none.
        """
        found = self.registry_name or type(self).__name__
        raise TypeError(f"local_features: expected an extractor with an attention to learn (attentive), found {found}")

    @final
    @torch.no_grad()
    def samples(self, part: str, photos: Sequence[Photo]) -> Tensor:
        """The vectors of some photos that a part learns from.

        Args:
            part: A key of :meth:`fitted_parts`; those before it have learned.
            photos: At least one, of any sizes.

        Returns:
            float32 ``(N, D)`` on the CPU, N of any size, zero included.
        """
        return torch.cat([vectors.float().cpu() for vectors in self._samples(part, photos)])

    def _samples(self, part: str, photos: Sequence[Photo]) -> list[Tensor]:
        """The vectors of :meth:`samples` in at least one block ``(n, D)``, on any device; no gradient is recorded."""
        raise NotImplementedError(f"{self.registry_name}: expected no part that learns from vectors, found {part!r}")

    def for_part(self, part: tuple[int, int], whole: tuple[int, int]) -> Self:
        """The extractor with which a part of a photo, cut out, is as large as it would be in its photo.

        Args:
            part: ``(height, width)`` of the part in original pixels.
            whole: The same of the photo.
        """
        return self._with(size=self.side_of(whole) * max(part) / max(whole))

    def side_of(self, size: tuple[int, int]) -> float:
        """The longest side in pixels at scale 1 of an image of ``size`` ``(height, width)``."""
        if self.size is not None:
            return self.size
        detector = self.shared_detector()
        if detector is None:
            raise ValueError("size: expected a number of pixels without a detector that has one of its own, found None")
        return max(detector.network_size(size))
