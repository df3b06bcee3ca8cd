"""The embedding head of a detector: boxes to vectors, from the feature maps that the detector has computed anyway."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from objemb import checks
from objemb.ops.normalize import l2

#: Channels that are normalised together.
GROUP = 8
#: Boxes at a time: each is a small map of all channels of all levels, and photos may have hundreds.
BLOCK = 512


class EmbeddingHead(nn.Module):
    """A vector for each box, from its samples on *all* levels of a feature pyramid.

    ::

        levels ── RoI align ── concatenate ── conv 1x1 ── depth x conv 3x3 ──┬─ mean ─┬── linear ── unit length
                                                                             └─ max ──┘

    It works as the mask head of Mask R-CNN does (He et al. 2017): it pools by itself, on final boxes at inference and
    on whichever boxes are to be learned from in training. All levels are read, unlike there, because a box needs the
    fine ones to tell its details and the coarse ones to tell what it is. The whole image is a box like any other.

    A vector depends on its own box alone: samples are normalised by groups of channels within a box, so that training
    and inference do the same whatever the batch.

    Args:
        in_channels: Channels of each level.
        strides: Pixels of the network's input that a cell of each level stands for. Declared, never guessed from the
            shapes of a batch, which padding and rounding distort.
        dim: Length D of the vectors.
        width: Channels inside the head, a multiple of 8.
        depth: Number of 3x3 convolutions.
        samples: A box is sampled at ``samples x samples`` places.
        sampling_ratio: Each sample averages ``sampling_ratio x sampling_ratio`` interpolated values.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        dim: int = 128,
        *,
        width: int = 256,
        depth: int = 2,
        samples: int = 7,
        sampling_ratio: int = 2,
    ) -> None:
        super().__init__()
        self.in_channels = tuple(int(checks.positive("in_channels", c)) for c in in_channels)
        self.strides = tuple(int(checks.positive("strides", s)) for s in strides)
        if len(self.in_channels) != len(self.strides) or not self.strides:
            raise ValueError(
                "in_channels and strides: expected one of each per level, at least one level, "
                f"found {self.in_channels} and {self.strides}"
            )
        self.dim = int(checks.positive("dim", dim))
        self.samples = int(checks.positive("samples", samples))
        self.sampling_ratio = int(checks.positive("sampling_ratio", sampling_ratio))
        width = int(checks.positive("width", width))
        if width % GROUP:
            raise ValueError(f"width: expected a multiple of {GROUP}, found {width}")
        layers = [_block(sum(self.in_channels), width, 1)]
        layers += [_block(width, width, 3) for _ in range(int(checks.between("depth", depth, 0, 64)))]
        self.trunk = nn.Sequential(*layers)
        self.project = nn.Linear(2 * width, self.dim)

    def forward(self, features: Sequence[Tensor], boxes: Sequence[Tensor], *, unit: bool = True) -> Tensor:
        """Vectors of the boxes of a batch of images.

        Args:
            features: Per level float ``(B, C, h, w)``, in the order of ``in_channels``.
            boxes: Per image ``(N, 4)``, xyxy edges in pixels of the *network's input*; zero boxes are a normal case.
            unit: Whether to bring the vectors to unit length; without it they suit a loss on their differences.

        Returns:
            float32 ``(sum of N, D)``: the boxes of the first image, then those of the second, and so on.

        Raises:
            ValueError: Levels or boxes that do not fit the head or the batch.
        """
        checks.shape("features[0]", features[0], (len(boxes), None, None, None))
        if len(features) != len(self.strides):
            raise ValueError(f"features: expected {len(self.strides)} levels, found {len(features)}")
        for number, (level, channels) in enumerate(zip(features, self.in_channels, strict=True)):
            checks.shape(f"features[{number}]", level, (len(boxes), channels, None, None))
        rois = _rois(boxes, features[0].device)
        vectors = torch.cat([self._embed(features, block) for block in rois.split(BLOCK)]).float()
        return l2(vectors) if unit else vectors

    def _embed(self, features: Sequence[Tensor], rois: Tensor) -> Tensor:
        cells = self.trunk(self._samples(features, rois))
        return self.project(torch.cat([cells.mean(dim=(2, 3)), cells.amax(dim=(2, 3))], dim=1))

    def _samples(self, features: Sequence[Tensor], rois: Tensor) -> Tensor:
        """``(M, sum of C, samples, samples)``; float32 throughout, for half precision would shift the boxes."""
        size = (self.samples, self.samples)
        levels = [
            roi_align(level.float(), rois, size, 1 / stride, self.sampling_ratio, aligned=True)
            for level, stride in zip(features, self.strides, strict=True)
        ]
        return torch.cat(levels, dim=1)


def _block(channels: int, width: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(width // GROUP, width), nn.ReLU(inplace=True))


def _rois(boxes: Sequence[Tensor], device: torch.device) -> Tensor:
    """float32 ``(sum of N, 5)``: the number of the image before each box."""
    numbered = [
        F.pad(checks.shape(f"boxes[{i}]", b, (None, 4)).to(device).float(), (1, 0), value=i)
        for i, b in enumerate(boxes)
    ]
    return torch.cat([torch.zeros(0, 5, device=device), *numbered])
