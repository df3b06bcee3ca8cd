"""The contract of embedding heads: boxes to vectors, from feature maps that the detector has computed anyway."""

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

is_scripting = torch.jit.is_scripting  # type: ignore[attr-defined]  # a comment where it is called stops TorchScript
#: Number of boxes that are sampled at a time: each needs small maps, and photos may have hundreds of boxes.
BLOCK = 128
#: Centre of the first cell of a map: the middle of its ``stride x stride`` pixels, or the first of these.
ANCHORS = ("middle", "corner")


class Head(Frozen, Plugin, ABC):
    """Computes a vector for each box.

    Like the mask head of Mask R-CNN (He et al. 2017), it pools features itself: from the final boxes at inference, and
    from the training boxes in training. The whole image is a box like any other. A vector depends only on its own box,
    so that training and inference compute the same, whatever the batch; layers that normalise over a batch stay in eval
    mode.

    After construction, a head is connected to a detector once, which creates the layers that depend on the detector's
    channels.

    Args:
        samples: A box is sampled on a grid of ``samples x samples``.
        sampling_ratio: Each sample averages ``sampling_ratio x sampling_ratio`` interpolated values.
        levels: Names of the detector's levels to sample; None for the head's default levels.
        anchor: One of ``ANCHORS``: the alignment of the cells of these levels. RoI align assumes that the first cell is
            centred in the middle of its pixels (``middle``). Layers with odd kernels and padding, as in ResNet and
            MobileNet, centre it on the first pixel instead, nearly half a cell up and to the left; ``corner``
            compensates for that. Patches (ConvNeXt) need ``middle``, and so do trained networks with TensorFlow's
            padding. This is not an anchor of a region proposal network; the name is part of the fingerprints of saved
            models.
        weights: A model folder, or a file with a state dict, that contains the trained head; also one of Detectron2
            (``model_final.pth``). ``random`` or None for a head that is to be trained.

    Raises:
        MissingWeightsError: The file of weights does not exist.

    Attributes:
        dim: Dimension D of the vectors.
        project: The last, linear layer; None if the vectors are the pooled ones.
        channels: Channels of each connected level.
        strides: Stride of each connected level, in pixels of the network's input. Declared, not inferred from the
            shapes of a batch, which depend on padding and rounding.
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
        """Choose levels of a detector, and create the layers that read them.

        Args:
            levels: Channels and stride by name.
            pyramid: Names of the levels that the detector itself pools boxes from.

        Returns:
            The names of the levels for :meth:`forward`, in order.

        Raises:
            ValueError: The detector does not have a level.
            UnreadableWeightsError: The file of weights does not fit the head.
            RuntimeError: The head is already connected.
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
        """Names of the levels to use by default."""

    @abstractmethod
    def build(self) -> None:
        """Create the layers that depend on ``channels``."""

    @abstractmethod
    def pooled(self, samples: Tensor) -> Tensor:
        """The input of the last layer, float ``(M, F)``, for samples of boxes ``(M, sum of C, samples, samples)``."""

    def embed(self, samples: Tensor) -> Tensor:
        """Vectors ``(M, D)``, not normalised, for samples of boxes ``(M, sum of C, samples, samples)``."""
        pooled = self.pooled(samples)
        return pooled if self.project is None else self.project(pooled)

    def expect_linear(self) -> nn.Linear:
        """The last layer, :attr:`project`.

        Raises:
            ValueError: The head has no such layer.
        """
        if self.project is None:
            raise ValueError("head: expected one with a linear layer at its end (dim=256), found none (dim=null)")
        return self.project

    @torch.no_grad()
    def fit(self, pooled: Tensor, targets: Tensor, strength: float) -> None:
        """Replace the last layer by the ridge regression from pooled vectors to targets, in closed form.

        Args:
            pooled: float ``(N, F)``, the input of the last layer for N boxes: :meth:`vectors` with ``projected=False``.
            targets: float ``(N, D)``.
            strength: Strength of the penalty, see :func:`objemb.ops.ridge.ridge_map`.

        Raises:
            ValueError: There is no such layer, the shapes do not fit it, or there are fewer than two boxes.
        """
        layer = self.expect_linear()
        checks.shape("pooled", pooled, (None, layer.in_features))
        checks.shape("targets", targets, (len(pooled), self.dim))
        weight, bias = ridge_map(pooled, targets, strength).weight_and_bias()
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)

    def initialise(self, backbone: Backbone, whitening: Whitening | None) -> None:
        """Initialise the layers of the head from those of a teacher, if it has such layers.

        Args:
            backbone: The teacher's network.
            whitening: The whitening of the teacher's vectors, or None.

        Raises:
            TypeError: The head has no layers of a teacher.
            ValueError: The layers differ in shape, or the vectors in dimension.
        """
        raise TypeError(
            f"head: expected one that can start from a teacher's layers (tail), found {type(self).__name__}"
        )

    def forward(self, features: list[Tensor], boxes: list[Tensor], unit: bool = True) -> Tensor:
        """Vectors of the boxes of a batch of images. TorchScript can compile it, where it can compile :meth:`pooled`.

        Args:
            features: float ``(B, C, h, w)`` for each connected level.
            boxes: ``(N, 4)`` for each image, xyxy edges in pixels of the *network's input*; N may be 0.
            unit: Whether to normalise the vectors; False for a loss on their differences.

        Returns:
            float32 ``(sum of N, D)``: the boxes of the first image, then those of the second, and so on.

        Raises:
            ValueError: Levels or boxes do not fit the head or the batch.
        """
        if is_scripting():
            vectors = self._scripted(features, boxes, unit)
        else:
            vectors = self.vectors(self.sampled(features, boxes), unit=unit)
        return vectors

    def _scripted(self, features: list[Tensor], boxes: list[Tensor], unit: bool) -> Tensor:
        """As :meth:`forward`, without checks and blocks."""
        numbered: list[Tensor] = []
        for i, of_image in enumerate(boxes):
            numbered.append(F.pad(of_image.float(), (1, 0), value=float(i)))
        vectors = self.embed(self.sampled_rois(features, torch.cat(numbered))).float()
        return F.normalize(vectors, dim=1) if unit else vectors

    def sampled(self, features: list[Tensor], boxes: Sequence[Tensor]) -> Iterator[Tensor]:
        """Samples of the boxes of a batch of images, for :meth:`vectors`.

        Args:
            features: As for :meth:`forward`.
            boxes: As for :meth:`forward`.

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
        """Vectors for samples of boxes, of one or several batches of images; small blocks are joined.

        Args:
            samples: Blocks of :meth:`sampled`, at least one.
            unit: As for :meth:`forward`.
            projected: False for the input of the last layer, see :meth:`pooled`, instead of its output.

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

    def sampled_rois(self, features: list[Tensor], rois: Tensor) -> Tensor:
        """One block of :meth:`sampled`, of any length, without checks.

        Args:
            features: As for :meth:`forward`.
            rois: float32 ``(M, 5)``: the index of the image, then the box in pixels of the network's input.

        Returns:
            float32 ``(M, sum of C, samples, samples)``; half precision would shift the boxes.
        """
        levels: list[Tensor] = []
        size = (self.samples, self.samples)
        for i, stride in enumerate(self.strides):  # TorchScript cannot zip a list with a tuple
            shift = (stride - 1) / 2 if self.anchor == "corner" else 0.0
            moved = torch.cat([rois[:, :1], rois[:, 1:] + shift], dim=1)
            levels.append(roi_align(features[i].float(), moved, size, 1 / stride, self.sampling_ratio, aligned=True))
        return torch.cat(levels, dim=1)


def _rois(boxes: Sequence[Tensor], device: torch.device) -> Tensor:
    """float32 ``(sum of N, 5)``: the index of the image, then the box."""
    numbered = [
        F.pad(checks.shape(f"boxes[{i}]", b, (None, 4)).to(device).float(), (1, 0), value=i)
        for i, b in enumerate(boxes)
    ]
    return torch.cat([torch.zeros(0, 5, device=device), *numbered])
