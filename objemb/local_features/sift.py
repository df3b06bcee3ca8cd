"""SIFT features, whose square roots are compared: local features without a network or weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from objemb import checks
from objemb.detectors.capabilities import DetectorPass
from objemb.images.pixels import LUMA
from objemb.local_features.base import LocalExtractor
from objemb.ops.images import resize
from objemb.ops.opencv import SIFT_DIM, root_sift
from objemb.ops.tensors import as_tensor
from objemb.registry import plugin
from objemb.structures import LocalFeatures, Photo


@plugin
class Sift(LocalExtractor):
    """RootSIFT (Arandjelovic and Zisserman, "Three things everyone should know to improve object retrieval", CVPR 2012)
    at the key points of SIFT (Lowe, "Distinctive image features from scale-invariant keypoints", IJCV 2004).

    The strength of a feature is the contrast of its point in scale space. A point with several orientations has several
    features.

    Args:
        size: Longest side of a photo in pixels.
        count: Maximum number of features of a photo.
        enlarge: Whether smaller photos are enlarged to that size.

    Raises:
        ImportError: OpenCV is not installed; raised by ``extract``.
    """

    def __init__(self, *, size: float = 1024, count: int = 1000, enlarge: bool = False) -> None:
        super().__init__(size=size, count=count)
        self.enlarge = checks.flag("enlarge", enlarge)

    size: float

    @property
    def dim(self) -> int:
        """See :attr:`LocalExtractor.dim`."""
        return SIFT_DIM

    def decode_side(self) -> int | None:
        """See :meth:`LocalExtractor.decode_side`."""
        return math.ceil(self.size)

    def _extract(self, photos: Sequence[Photo], seen: DetectorPass | None) -> list[LocalFeatures]:
        return [self._of_photo(photo) for photo in photos]

    def _of_photo(self, photo: Photo) -> LocalFeatures:
        height, width = photo.pixels.shape[1:]
        scale = self.size / max(height, width)
        scale = scale if self.enlarge else min(1.0, scale)
        shape = (max(1, round(height * scale)), max(1, round(width * scale)))
        pixels = resize(as_tensor(photo.pixels), shape).float()
        grey = (pixels * torch.tensor(LUMA)[:, None, None]).sum(dim=0).round().clamp(0, 255).to(torch.uint8)
        return root_sift(grey.numpy(), photo.size, self.count)
