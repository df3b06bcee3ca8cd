"""The contract of an embedding head: boxes to vectors, from feature maps that the detector has computed anyway."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from objemb import checks
from objemb.backbones.base import Backbone
from objemb.layers.frozen import Frozen
from objemb.layers.whitening import Whitening
from objemb.ops.ridge import ridge_map
from objemb.ops.tensors import l2
from objemb.registry import Plugin
from objemb.weights.fill import fill, of_module
from objemb.weights.locate import existing_file, is_named
from objemb.weights.read import read_weights

#: Boxes at a time: each becomes maps of its own, and photos may have hundreds.
BLOCK = 128
#: Where a map's first cell looks: around the middle of its ``stride x stride`` pixels, or around the first of them.
ANCHORS = ("middle", "corner")


class Head(Frozen, Plugin, ABC):
    """A vector for each box.

    Like the mask head of Mask R-CNN (He et al. 2017), it pools features itself: from the final boxes at inference, from
    the training boxes in training. The whole image is a box like any other. A vector depends on its own box alone, so
    that training and inference compute the same whatever the batch; layers that normalise over a batch stay in eval
    mode.

    A head is built, then connected to a detector once, which makes the layers that depend on the detector's channels.

    Args:
        samples: A box is sampled at ``samples x samples`` places.
        sampling_ratio: Each sample averages ``sampling_ratio x sampling_ratio`` interpolated values.
        levels: Names of the detector's levels to sample; None for the head's default levels.
        anchor: One of ``ANCHORS``: what the cells of these levels look at. RoI align takes the first cell for the
            middle of its pixels. Layers with odd kernels and padding, as ResNet and MobileNet have them, centre it on
            the first pixel instead, nearly half a cell up and to the left, which ``corner`` makes up for. Patches
            (ConvNeXt) lie where ``middle`` says; so do, once trained, networks that pad as TensorFlow does. Not an
            anchor of a region proposal network; the name is part of the fingerprints of saved models.
        weights: A model folder, or a file with a state dict, in which the head is: what a training left, in Detectron2
            (``model_final.pth``) as well. ``random``, as is None, for a head that is to be trained.

    Raises:
        MissingWeightsError: There is no such file of weights.

    Attributes:
        dim: Length D of the vectors.
        project: The last layer, linear; None where the vectors are the pooled ones.
        channels: Of each connected level.
        strides: Of each connected level: pixels of the network's input from cell to cell. Declared, never guessed from
            the shapes of a batch, which padding and rounding distort.
    """

    kind = "heads"
    dim: int
    project: nn.Linear | None
    channels: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()

    def __init__(
        self,
        samples: int,
        sampling_ratio: int,
        levels: Sequence[str] | None,
        anchor: str,
        weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.project = None
        self.file = existing_file(weights, ()) if is_named(weights) else None
        self.samples = checks.whole("samples", samples)
        self.sampling_ratio = checks.whole("sampling_ratio", sampling_ratio)
        self.levels = None if levels is None else tuple(str(n) for n in checks.several("levels", levels))
        self.anchor = checks.one_of("anchor", anchor, ANCHORS)

    def connect(self, levels: Mapping[str, tuple[int, int]], pyramid: Sequence[str]) -> tuple[str, ...]:
        """Choose from the levels of a detector, and make the layers that read them.

        Args:
            levels: By name channels and stride.
            pyramid: Names of those that the detector itself pools boxes from.

        Returns:
            The names of the levels that :meth:`forward` takes, in this order.

        Raises:
            ValueError: Levels that the detector does not have.
            UnreadableWeightsError: The file of weights does not fit the head.
            RuntimeError: The head is connected already.
        """
        if self.channels:
            raise RuntimeError(f"head: expected one that is not connected yet, found one for {self.channels} channels")
        names = tuple(self.levels or self.default_levels(pyramid))
        for name in names:
            checks.one_of("levels", name, tuple(levels))
        self.channels, self.strides = zip(*(levels[n] for n in names), strict=True)
        self.build()
        if self.file is not None:
            fill(self, of_module(self, read_weights(self.file), self.file), self.file)
        return names

    @abstractmethod
    def default_levels(self, pyramid: Sequence[str]) -> Sequence[str]:
        """Names of the levels to take when none were asked for."""

    @abstractmethod
    def build(self) -> None:
        """Make the layers that depend on ``channels``."""

    @abstractmethod
    def pooled(self, samples: Tensor) -> Tensor:
        """What the last layer reads, float ``(M, F)``, of the samples of boxes ``(M, sum of C, samples, samples)``."""

    def embed(self, samples: Tensor) -> Tensor:
        """Vectors ``(M, D)``, of any length, of the samples of boxes ``(M, sum of C, samples, samples)``."""
        pooled = self.pooled(samples)
        return pooled if self.project is None else self.project(pooled)

    def expect_linear(self) -> nn.Linear:
        """The last layer, :attr:`project`.

        Raises:
            ValueError: The head has none.
        """
        if self.project is None:
            raise ValueError("head: expected one with a linear layer at its end (dim=256), found none (dim=null)")
        return self.project

    @torch.no_grad()
    def fit(self, pooled: Tensor, targets: Tensor, strength: float) -> None:
        """Replace the last layer by the one that maps pooled vectors to targets best, in closed form.

        Args:
            pooled: float ``(N, F)``, what the last layer reads of N boxes: :meth:`vectors` with ``projected=False``.
            targets: float ``(N, D)``.
            strength: Of the penalty, see :func:`objemb.ops.ridge.ridge_map`.

        Raises:
            ValueError: There is no such layer; shapes that do not fit it, or fewer than two boxes.
        """
        layer = self.expect_linear()
        checks.shape("pooled", pooled, (None, layer.in_features))
        checks.shape("targets", targets, (len(pooled), self.dim))
        weight, bias = ridge_map(pooled, targets, strength).weight_and_bias()
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)

    def initialise(self, backbone: Backbone, whitening: Whitening | None) -> None:
        """Start from the layers of a teacher, for heads that can.

        Args:
            backbone: The teacher's network.
            whitening: What the teacher does to pooled vectors of unit length, or None for nothing.

        Raises:
            TypeError: A head that has no such layers.
            ValueError: Layers that differ in shape, or vectors in length.
        """
        raise TypeError(
            f"head: expected one that can start from a teacher's layers (tail), found {type(self).__name__}"
        )

    def forward(self, features: Sequence[Tensor], boxes: Sequence[Tensor], *, unit: bool = True) -> Tensor:
        """Vectors of the boxes of a batch of images.

        Args:
            features: Per connected level float ``(B, C, h, w)``.
            boxes: Per image ``(N, 4)``, xyxy edges in pixels of the *network's input*; zero boxes are a normal case.
            unit: Whether to bring the vectors to unit length; without it they suit a loss on their differences.

        Returns:
            float32 ``(sum of N, D)``: the boxes of the first image, then those of the second, and so on.

        Raises:
            ValueError: Levels or boxes that do not fit the head or the batch.
        """
        return self.vectors(self.sampled(features, boxes), unit=unit)

    def sampled(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> Iterator[Tensor]:
        """What :meth:`vectors` takes, of boxes of a batch of images.

        Args:
            features: As for :meth:`forward`.
            boxes: Likewise.

        Yields:
            float32 ``(M, sum of C, samples, samples)``, M at most ``BLOCK``; one of zero boxes for zero boxes.

        Raises:
            ValueError: As :meth:`forward`.
        """
        if len(features) != len(self.strides):
            raise ValueError(f"features: expected {len(self.strides)} levels, found {len(features)}")
        for number, (level, channels) in enumerate(zip(features, self.channels, strict=True)):
            checks.shape(f"features[{number}]", level, (len(boxes), channels, None, None))
        for block in _rois(boxes, features[0].device).split(BLOCK):
            yield self.sampled_rois(features, block)

    def vectors(self, samples: Iterable[Tensor], *, unit: bool = True, projected: bool = True) -> Tensor:
        """Vectors of samples of boxes, of one or of several batches of images; small blocks are joined.

        Args:
            samples: Blocks of :meth:`sampled`, at least one.
            unit: As for :meth:`forward`.
            projected: False for what the last layer reads, see :meth:`pooled`, instead of what it makes of it.

        Returns:
            float32 ``(sum of M, D)``, or ``(sum of M, F)``, in the order of the samples.
        """
        embed = self.embed if projected else self.pooled
        parts: list[Tensor] = []
        waiting: list[Tensor] = []
        for block in samples:
            if waiting and sum(map(len, waiting)) + len(block) > BLOCK:
                parts.append(embed(torch.cat(waiting)))
                waiting = []
            waiting.append(block)
        vectors = torch.cat([*parts, embed(torch.cat(waiting))]).float()
        return l2(vectors) if unit else vectors

    def sampled_rois(self, features: Sequence[Tensor], rois: Tensor) -> Tensor:
        """One block of :meth:`sampled`, unchecked, of any length.

        Args:
            features: As for :meth:`forward`.
            rois: float32 ``(M, 5)``: the number of the image, then the box in pixels of the network's input.

        Returns:
            float32 ``(M, sum of C, samples, samples)``, for half precision would shift the boxes.
        """
        levels = []
        for level, stride in zip(features, self.strides, strict=True):
            shift = (stride - 1) / 2 if self.anchor == "corner" else 0.0
            moved = rois + rois.new_tensor([0.0, shift, shift, shift, shift])
            size = (self.samples, self.samples)
            levels.append(roi_align(level.float(), moved, size, 1 / stride, self.sampling_ratio, aligned=True))
        return torch.cat(levels, dim=1)


def _rois(boxes: Sequence[Tensor], device: torch.device) -> Tensor:
    """float32 ``(sum of N, 5)``: the number of the image before each box."""
    numbered = [
        F.pad(checks.shape(f"boxes[{i}]", b, (None, 4)).to(device).float(), (1, 0), value=i)
        for i, b in enumerate(boxes)
    ]
    return torch.cat([torch.zeros(0, 5, device=device), *numbered])
