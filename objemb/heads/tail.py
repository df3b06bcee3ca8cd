"""The upper stages of a classification network, transplanted onto a lower level of a detector."""

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
    """A vector for each box from the layers that a classification network would have gone on with.

    ::

        trunk8 ── RoI align ── upper stages ── pooling ── unit length ── linear ── unit length

    A low level of the detector's trunk has a small receptive field, so that its features in a box contain little of the
    background, unlike those of the deep levels: they are what a classification network computes from the box cut out,
    but for the border and the scale. The stages above that level are taken from the teacher with their weights; where
    the detector's trunk has kept the teacher's lower stages as well, the head is useful before any training. It is the
    stage that works on boxes in Faster R-CNN on C4 (He et al., "Deep residual learning for image recognition", 2016,
    appendix A), starting at a lower level and taken from the teacher; that choice is this project's.

    Where the levels are not exactly the map that the stages were trained on, a 1x1 convolution comes before them: at
    first the identity on the first level, if that has as many channels, and zero on others.

    Args:
        backbone: The classification network whose upper stages are taken. With ``weights`` of its own they come along;
            else they are random until a training or :meth:`initialise` fills them.
        pooling: What becomes of the last map; that of the teacher.
        stride: Of the map of ``backbone`` behind which the stages begin.
        dim: Length D of the vectors; None for that of the pooled ones, without a linear layer.
        samples: See :class:`~objemb.heads.base.Head` for this and the next three. Odd numbers suit layers that halve
            with odd kernels.
        sampling_ratio: Interpolated values per sample, on a side.
        levels: By default the trunk's level of the same stride.
        anchor: ``middle`` or ``corner``.
        weights: Of a whole head that has been trained, see :class:`~objemb.heads.base.Head`.

    Attributes:
        upper: The stages.
        project: The linear layer, or None.

    Raises:
        TypeError: A backbone that cannot be cut.
        ValueError: A stride that the backbone does not have below its last map.
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
        """See :meth:`Head.initialise`. A whitening is linear on vectors of unit length: it becomes the last layer."""
        teacher = backbone.upper(self.stride)
        _expect_like(self.upper, teacher)
        found = None if whitening is None else whitening.dim
        if (self.project is None) != (whitening is None) or found not in (None, self.dim):
            raise ValueError(
                f"whitening: expected {'none' if self.project is None else f'one to dim={self.dim}'}, "
                f"found {'none' if found is None else f'one to {found}'}"
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
