"""A small convolutional head that is trained from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from objemb import checks
from objemb.heads.base import Head
from objemb.registry import plugin

#: Channels that are normalised together.
GROUP = 8


@plugin
class EmbeddingHead(Head):
    """A vector for each box, from its samples on several levels of a detector at once.

    ::

        levels ── RoI align ── concatenate ──┬── conv 1x1 ── depth x conv 3x3 ──┬── mean ──┬── linear ── unit length
                                             │                                  └── max ───┤
                                             └── mean (shortcut) ──────────────────────────┘

    Unlike the mask head of Mask R-CNN, it reads all of its levels for each box: the fine ones for details, and the
    coarse ones for the kind of object. Samples are normalised by groups of channels within a box (Wu and He, "Group
    normalization", 2018).

    The choice of levels matters most. Those of a pyramid are trained to separate objects from background, and say
    little about which object it is. The trunk's levels of strides 8 and 16 (``levels: [trunk8, trunk16]``, with
    ``anchor: corner`` for most networks) have the textures and parts that a classification network represents. With
    ``shortcut``, the last linear layer also reads them directly, so that a closed-form fit of that layer
    (:meth:`~objemb.heads.base.Head.fit`) gives a useful head before any training.

    Args:
        dim: Length D of the vectors.
        width: Channels inside the head, a multiple of 8.
        depth: Number of 3x3 convolutions.
        samples: See :class:`~objemb.heads.base.Head`.
        sampling_ratio: See :class:`~objemb.heads.base.Head`.
        shortcut: Whether the last layer also reads the mean of the samples.
        levels: See :class:`~objemb.heads.base.Head`; by default those of the pyramid.
        anchor: ``middle`` or ``corner``, see :class:`~objemb.heads.base.Head`.
        weights: Weights of a trained head, see :class:`~objemb.heads.base.Head`.
    """

    published = "MODEL (a folder or file that a training left)"

    def __init__(
        self,
        *,
        dim: int = 128,
        width: int = 256,
        depth: int = 2,
        shortcut: bool = False,
        samples: int = 7,
        sampling_ratio: int = 2,
        levels: Sequence[str] | None = None,
        anchor: str = "middle",
        weights: str | Path | None = None,
    ) -> None:
        super().__init__(samples, sampling_ratio, levels, anchor, weights)
        self.dim = checks.whole("dim", dim)
        self.width = checks.whole("width", width)
        if self.width % GROUP:
            raise ValueError(f"width: expected a multiple of {GROUP}, found {width}")
        self.depth = checks.whole("depth", depth, 0)
        self.shortcut = checks.flag("shortcut", shortcut)

    def default_levels(self, pyramid: Sequence[str]) -> Sequence[str]:
        """See :meth:`Head.default_levels`."""
        return pyramid

    def build(self) -> None:
        """See :meth:`Head.build`."""
        channels = sum(self.channels)
        layers = [_block(channels, self.width, 1)]
        self.trunk = nn.Sequential(*layers, *(_block(self.width, self.width, 3) for _ in range(self.depth)))
        self.project = nn.Linear(2 * self.width + (channels if self.shortcut else 0), self.dim)

    def pooled(self, samples: Tensor) -> Tensor:
        """See :meth:`Head.pooled`."""
        cells = self.trunk(samples)
        parts = [cells.mean(dim=(2, 3)), cells.amax(dim=(2, 3))]
        if self.shortcut:
            parts.append(samples.mean(dim=(2, 3)))
        return torch.cat(parts, dim=1)


def _block(channels: int, width: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(width // GROUP, width), nn.ReLU(inplace=True))
