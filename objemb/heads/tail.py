"""The upper stages of a classification network, on a low level of a detector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from objemb import checks
from objemb.backbones.base import Backbone
from objemb.heads.base import Head
from objemb.layers.folded import Folded
from objemb.layers.whitening import Whitening
from objemb.ops.tensors import l2
from objemb.pooling.base import Pooling
from objemb.registry import plugin


@plugin
class Tail(Head):
    """Computes a vector for each box with the upper stages of a classification network.

    ::

        trunk8 ── RoI align ── upper stages ── pooling ── unit length ── linear ── unit length

    Features of a low level of the detector's trunk have small receptive fields, so that those inside a box contain
    little of the background, unlike those of deep levels: apart from the border and the scale, they are what a
    classification network computes from a crop of the box. The stages above that level are taken from the teacher with
    their weights. If the detector's trunk has the teacher's lower stages as well, the head is useful before any
    training. It corresponds to the stage that runs on boxes in Faster R-CNN with C4 features (He et al., "Deep residual
    learning for image recognition", 2016, appendix A), but starts at a lower level and comes from the teacher, which is
    a choice of this project.

    If the levels are not exactly the map that the stages were trained on, a 1x1 convolution precedes them. It is
    initialised as the identity on the first level, if the number of channels is the same, and as zero on others.

    Args:
        backbone: The classification network that the upper stages are taken from, with its ``weights``; without
            weights, they are random until they are trained or :meth:`initialise` fills them.
        pooling: Pools the last map; that of the teacher.
        stride: Stride of the map of ``backbone`` after which the stages begin.
        dim: Dimension D of the vectors; None for that of the pooled vectors, without a linear layer.
        samples: See :class:`~objemb.heads.base.Head`. Odd numbers suit strided layers with odd kernels.
        sampling_ratio: See :class:`~objemb.heads.base.Head`.
        levels: See :class:`~objemb.heads.base.Head`; by default the trunk's level of the same stride.
        anchor: ``middle`` or ``corner``, see :class:`~objemb.heads.base.Head`.
        weights: Weights of a whole trained head, see :class:`~objemb.heads.base.Head`.

    Attributes:
        upper: The stages.
        project: The linear layer, or None.

    Raises:
        TypeError: The backbone cannot be cut.
        ValueError: The backbone does not have the stride below its last map.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        pooling: Pooling,
        stride: int = 8,
        dim: int | None = 128,
        samples: int = 15,
        sampling_ratio: int = 1,
        levels: Sequence[str] | None = None,
        anchor: str = "corner",
        weights: str | Path | None = None,
    ) -> None:
        super().__init__(samples, sampling_ratio, levels, anchor, weights)
        self.stride = stride
        self.upper = backbone.upper(stride)
        self._folded = Folded(self.upper)
        self.entry = backbone.stages[stride][1]
        self.pooling = pooling
        pooling.connect(backbone.channels)
        pooled = pooling.length(backbone.channels)
        self.project = None if dim is None else nn.Linear(pooled, checks.whole("dim", dim))
        self.dim = pooled if dim is None else dim

    def default_levels(self, pyramid: Sequence[str]) -> Sequence[str]:
        """See :meth:`Head.default_levels`."""
        return (f"trunk{self.stride}",)

    def build(self) -> None:
        """See :meth:`Head.build`."""
        self.adapter = None if self.channels == (self.entry,) else nn.Conv2d(sum(self.channels), self.entry, 1)
        if self.adapter is not None and self.channels[0] == self.entry:
            nn.init.dirac_(self.adapter.weight)
            if self.adapter.bias is not None:
                nn.init.zeros_(self.adapter.bias)

    def pooled(self, samples: Tensor) -> Tensor:
        """See :meth:`Head.pooled`."""
        samples = samples.contiguous(memory_format=torch.channels_last)  # up to twice as fast on a CPU
        maps = self._folded(samples if self.adapter is None else self.adapter(samples))
        return l2(self.pooling(maps).float())

    @torch.no_grad()
    def initialise(self, backbone: Backbone, whitening: Whitening | None) -> None:
        """See :meth:`Head.initialise`. A whitening is affine on unit vectors and becomes the last layer."""
        teacher = backbone.upper(self.stride)
        _expect_like(self.upper, teacher)
        given = None if whitening is None else whitening.dim
        if (self.project is None) != (whitening is None) or given not in (None, self.dim):
            raise ValueError(
                f"whitening: expected {'none' if self.project is None else f'one to dim={self.dim}'}, "
                f"found {'none' if given is None else f'one to {given}'}"
            )
        self.upper.load_state_dict(teacher.state_dict())
        if self.project is not None and whitening is not None:
            weight, bias = whitening.map.weight_and_bias()
            self.project.weight.copy_(weight)
            self.project.bias.copy_(bias)


def _expect_like(own: nn.Module, teacher: nn.Module) -> None:
    expected = {name: tuple(value.shape) for name, value in own.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in teacher.state_dict().items()}
    if expected != found:
        first = next(n for n in (*expected, *found) if expected.get(n) != found.get(n))
        raise ValueError(
            f"backbone: expected upper stages as in the head, with {first!r} of shape {expected.get(first)}, "
            f"found {found.get(first)}"
        )
