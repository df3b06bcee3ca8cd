"""The contract of backbones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from objemb import checks
from objemb.backbones._offset import offsets, receptive_side
from objemb.backbones._probe import meta_copy
from objemb.layers.frozen import Frozen
from objemb.layers.precision import computed
from objemb.ops.images import as_batch
from objemb.registry import Plugin

#: Maps of smaller strides are not available: they are large, and contain little but edges.
FINEST_STRIDE = 4
#: Mean and standard deviation of the RGB channels of the photos of ImageNet, 0 to 1.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Backbone(Frozen, Plugin, ABC):
    """A network that turns images into one feature map.

    It is built with keyword arguments, one of which is ``weights``: a name known to the library, the path of a ``.pth``
    or ``.safetensors`` file, or ``random``. None means random as well (a model folder fills the weights afterwards),
    but the settings of a new model have to name weights if any are published, see
    :attr:`objemb.registry.Plugin.published`.
    It stays in eval mode, see :class:`~objemb.layers.frozen.Frozen`. A plug-in calls :meth:`normalise_by` once.

    Attributes:
        channels: C of the map.
        stride: Input pixels from one cell to the next, in both directions.
        offset: Position of the outer edge of the first cell in input pixels, in both directions: ``(1 - stride) / 2``
            for a network with padding, whose first cell is centred on the first pixel.
        surplus: Pixels that padding adds to a side: a side of ``n`` pixels gives ``(n + surplus) // stride`` cells, see
            :meth:`map_size`.
        multiple: Input sides must be multiples of this (patch size of a transformer; 1 if any side is possible).
        smallest: Input sides must be at least this (for kernels without padding); never below ``stride``.
        level: Name of the map among those of :meth:`source_detector`; None without a detector.
        stages: For each map of :meth:`maps`, by stride: the name of the layer whose output it is, and its channels.
            Empty for a network with only one map.
        mean: float32 ``(3, 1, 1)``, RGB, subtracted from pixels of 0 to 1.
        std: float32 ``(3, 1, 1)``, the divisor of the difference.
    """

    kind = "backbones"
    channels: int
    stride: int
    offset: float = 0.0
    surplus: int = 0
    multiple: int = 1
    smallest: int
    level: str | None = None
    stages: Mapping[int, tuple[str, int]] = {}
    mean: Tensor
    std: Tensor

    def normalise_by(self, mean: Sequence[float], std: Sequence[float], *, saved: bool = True) -> None:
        """Create the buffers :attr:`mean` and :attr:`std`.

        Args:
            mean: Mean of the RGB channels of the training images, 0 to 1.
            std: Standard deviation of these channels.
            saved: Whether they are saved with the weights; False if a part of the network has them already.

        Raises:
            ValueError: There are not three numbers, or a standard deviation is not positive.
        """
        self.register_buffer("mean", _per_channel("mean", mean), persistent=saved)
        self.register_buffer("std", _per_channel("std", std), persistent=saved)
        checks.positive("std", float(self.std.min()))

    def normalised(self, pixels: Tensor) -> Tensor:
        """Pixels float ``(B, 3, h, w)``, RGB, 0 to 1, minus the mean, divided by the standard deviation."""
        scaled: Tensor = (pixels - self.mean).div_(self.std)
        return scaled

    def __call__(self, pixels: Tensor) -> Tensor:
        """As :meth:`forward`, in the precision of :func:`objemb.layers.precision.networks_in`, but with float32
        output."""
        map_: Tensor = computed(pixels.device, super().__call__, pixels)
        return map_

    @property
    def device(self) -> torch.device:
        """The device of the network; the CPU if it has no parameters and buffers."""
        state = next(chain(self.parameters(), self.buffers()), None)
        return torch.device("cpu") if state is None else state.device

    def feature_maps(self, images: Sequence[Tensor]) -> Tensor:
        """Feature maps ``(B, C, h', w')`` of uint8 images ``(3, h, w)`` of one shape, on :attr:`device`."""
        return self(as_batch(images, self.device))

    @abstractmethod
    def forward(self, pixels: Tensor) -> Tensor:
        """Feature map of a batch.

        Args:
            pixels: float ``(B, 3, h, w)``, RGB, 0 to 1; the backbone normalises them.

        Returns:
            float ``(B, C, h', w')``; cell ``(i, j)`` represents the input pixels from ``offset + (i, j) * stride`` on.
            ``(h', w')`` is given by :meth:`map_size`: ``h / stride`` rounded up or down, depending on the padding; a
            network without padding has a cell or two less.
        """

    def map_size(self, shape: tuple[int, int]) -> tuple[int, int]:
        """``(height, width)`` of the map of an image, in cells, without running the network.

        Any chain of convolutions and poolings gives ``(n + surplus) // stride`` cells for ``n`` pixels, whatever its
        padding and rounding, since ``((n + a) // s + b) // t = (n + a + b s) // (s t)`` for integers.

        Args:
            shape: ``(height, width)`` of the image in pixels.
        """
        height, width = ((side + self.surplus) // self.stride for side in shape)
        return height, width

    def source_detector(self) -> nn.Module | None:
        """The detector whose feature map this is, that of its :attr:`level`; None if the network is not part of one."""
        return None

    def maps(self, pixels: Tensor, coarsest: int | None = None) -> dict[int, Tensor]:
        """The last map of each stride from 4 on, the finest first, from one pass; the last is that of :meth:`forward`.

        Each is the output of a named layer (see ``stages``), from which later layers can continue.

        Args:
            pixels: As for :meth:`forward`.
            coarsest: The largest stride that is needed, one of ``stages``; layers after its map do not run. None for
                all.

        Returns:
            float ``(B, C, h', w')`` by stride.

        Raises:
            TypeError: The network has only one map.
        """
        raise TypeError(
            "backbone: expected one with maps of several strides (torchvision_cnn, narrow_resnet, timm_net), "
            f"found {type(self).__name__}"
        )

    def offsets(self) -> dict[int, float]:
        """The offset of the first cell of each map of :meth:`maps`, by stride, as :attr:`offset` for the last map."""
        return offsets(meta_copy(self).maps, self._probe_side) if self.stages else {}

    def receptive_side(self) -> float:
        """Side of the square of input pixels that a cell of the map of :meth:`forward` depends on.

        Computed from kernels, strides and dilations; :attr:`stride` for networks that they do not determine, such as
        transformers.
        """
        return receptive_side(meta_copy(self), self.stride, self._probe_side)

    @property
    def _probe_side(self) -> int:
        """A small input side that the network accepts and that gives a map of several cells."""
        side = max(self.smallest, 4 * self.stride)
        return -(-side // self.multiple) * self.multiple

    def upper(self, stride: int) -> nn.Module:
        """The layers between a map of :meth:`maps` and the last one: a copy, as a separate network.

        Args:
            stride: Stride of the map that is its input.

        Returns:
            A network in eval mode; its input is like that map, ``(M, C, h, w)``, and its output is the last map.

        Raises:
            TypeError: The network has only one map, or cannot be cut.
            ValueError: There is no such map, or later layers also need other maps.
        """
        raise TypeError(
            "backbone: expected one whose upper layers can be taken (torchvision_cnn, narrow_resnet, timm_net), "
            f"found {type(self).__name__}"
        )

    def class_layer(self) -> nn.Linear:
        """The classification layer, from the mean of the map over its cells to scores of classes.

        Its weights ``(K, C)`` give the class activation maps of the K classes.

        Raises:
            TypeError: The network does not have one.
            ValueError: It was not kept.
        """
        raise TypeError(
            f"backbone: expected one with a classification layer (torchvision_cnn), found {type(self).__name__}"
        )

    def _ends(self, coarsest: int | None) -> dict[int, str]:
        """The layers whose outputs are the maps of :meth:`maps`, by stride, up to the coarsest that is needed."""
        if coarsest is not None:
            checks.one_of("coarsest", coarsest, tuple(self.stages))
        return {s: name for s, (name, _) in self.stages.items() if coarsest is None or s <= coarsest}

    def _below_last(self, stride: int) -> str:
        """The layer whose output is the map of a stride, for :meth:`upper`."""
        known = [s for s in self.stages if s < self.stride]
        return self.stages[checks.one_of("stride", stride, known)][0]


def _per_channel(name: str, values: Sequence[float]) -> Tensor:
    return checks.finite(name, checks.shape(name, torch.tensor(list(values)), (3,))).reshape(3, 1, 1)
