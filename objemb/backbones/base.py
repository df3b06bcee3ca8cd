"""The contract of a backbone."""

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

#: Maps of smaller strides are not offered: they are large, and contain little but edges.
FINEST_STRIDE = 4
#: Mean and standard deviation of the RGB channels of the photos of ImageNet, 0 to 1.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Backbone(Frozen, Plugin, ABC):
    """A network that turns images into one feature map.

    Built by keyword arguments, among them ``weights``: a name the library knows, a path of a ``.pth`` or
    ``.safetensors`` file, or ``random``; None is the same (a model folder fills them in afterwards), but settings of a
    new model have to name one where weights are published, see :attr:`objemb.registry.Plugin.published`.
    It stays in eval mode, see :class:`~objemb.layers.frozen.Frozen`. A plug-in calls :meth:`normalise_by` once.

    Attributes:
        channels: C of the map.
        stride: Input pixels from one cell to the next, in both directions.
        offset: Where the outer edge of the first cell lies in input pixels, in both directions: ``(1 - stride) / 2``
            for a network that pads, so that its first cell looks around the first pixel.
        surplus: Pixels that padding adds to a side: a side of ``n`` pixels gives ``(n + surplus) // stride`` cells, see
            :meth:`map_size`.
        multiple: Input sides must be a multiple of this (patch size of a transformer; 1 where any side fits).
        smallest: Input sides must be at least this (kernels that do not pad need some room); never below ``stride``.
        level: Name of the map among those of :meth:`source_detector`; None where there is no detector.
        stages: Of the maps that :meth:`maps` gives, by stride: the name of the layer that each comes out of, and its
            channels. Empty for a network that gives one map only.
        mean: float32 ``(3, 1, 1)``, RGB, what is subtracted from pixels of 0 to 1.
        std: float32 ``(3, 1, 1)``, what the rest is divided by.
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
        """Make the buffers :attr:`mean` and :attr:`std`.

        Args:
            mean: Of the RGB channels of the images that the network was trained on, 0 to 1.
            std: Their standard deviation.
            saved: Whether they are saved with the weights; not where a part of the network has them already.

        Raises:
            ValueError: Other than three numbers, or a deviation of 0 or below.
        """
        self.register_buffer("mean", _per_channel("mean", mean), persistent=saved)
        self.register_buffer("std", _per_channel("std", std), persistent=saved)
        checks.positive("std", float(self.std.min()))

    def normalised(self, pixels: Tensor) -> Tensor:
        """Pixels float ``(B, 3, h, w)``, RGB, 0 to 1, less the mean and divided by the deviation."""
        scaled: Tensor = (pixels - self.mean).div_(self.std)
        return scaled

    def __call__(self, pixels: Tensor) -> Tensor:
        """As :meth:`forward`, in the precision of :func:`objemb.layers.precision.networks_in`; float32 comes out."""
        map_: Tensor = computed(pixels.device, super().__call__, pixels)
        return map_

    @property
    def device(self) -> torch.device:
        """Where the network is; the CPU when it has no state at all."""
        state = next(chain(self.parameters(), self.buffers()), None)
        return torch.device("cpu") if state is None else state.device

    def feature_maps(self, images: Sequence[Tensor]) -> Tensor:
        """Feature maps ``(B, C, h', w')`` of uint8 images ``(3, h, w)`` of one shape, on :attr:`device`."""
        return self(as_batch(images, self.device))

    @abstractmethod
    def forward(self, pixels: Tensor) -> Tensor:
        """Feature map of a batch.

        Args:
            pixels: float ``(B, 3, h, w)``, RGB, 0 to 1; the backbone subtracts mean and divides by deviation itself.

        Returns:
            float ``(B, C, h', w')``; cell ``(i, j)`` stands for the input pixels from ``offset + (i, j) * stride``
            on, and ``(h', w')`` is what :meth:`map_size` says: ``h / stride`` rounded up or down as the network pads;
            one that does not pad loses a cell or two.
        """

    def map_size(self, shape: tuple[int, int]) -> tuple[int, int]:
        """``(height, width)`` of the map of an image, in cells, without running the network.

        Any chain of convolutions and poolings gives ``(n + surplus) // stride`` cells of ``n`` pixels, whatever it pads
        and however it rounds, since ``((n + a) // s + b) // t = (n + a + b s) // (s t)`` for whole numbers.

        Args:
            shape: ``(height, width)`` of the image in pixels.
        """
        height, width = ((side + self.surplus) // self.stride for side in shape)
        return height, width

    def source_detector(self) -> nn.Module | None:
        """The detector whose features these are; None for a network that belongs to none. The map is its
        :attr:`level`."""
        return None

    def maps(self, pixels: Tensor, coarsest: int | None = None) -> dict[int, Tensor]:
        """The last map of each stride from 4 on, the finest first, from one pass; the last is that of :meth:`forward`.

        Each is the output of a named layer (see ``stages``): what is behind that layer may go on from there.

        Args:
            pixels: As for :meth:`forward`.
            coarsest: The largest stride that is of use, one of ``stages``: the layers behind its map do not run. None
                for all of them.

        Returns:
            By stride float ``(B, C, h', w')``.

        Raises:
            TypeError: The network gives one map only.
        """
        raise TypeError(
            "backbone: expected one with maps of several strides (torchvision_cnn, narrow_resnet, timm_net), "
            f"found {type(self).__name__}"
        )

    def offsets(self) -> dict[int, float]:
        """By stride where the first cell of each map of :meth:`maps` begins, as :attr:`offset` says of the last."""
        return offsets(meta_copy(self).maps, self._probe_side) if self.stages else {}

    def receptive_side(self) -> float:
        """Side of the square of input pixels that a cell of the map of :meth:`forward` depends on.

        By kernels, strides and dilations; :attr:`stride` for a network that they do not explain, such as a transformer.
        """
        return receptive_side(meta_copy(self), self.stride, self._probe_side)

    @property
    def _probe_side(self) -> int:
        """A small input side that the network accepts and that gives a map of several cells."""
        side = max(self.smallest, 4 * self.stride)
        return -(-side // self.multiple) * self.multiple

    def upper(self, stride: int) -> nn.Module:
        """The layers between a map of :meth:`maps` and the last one: a copy, as a network of its own.

        Args:
            stride: Of the map that it goes on from.

        Returns:
            In eval mode; takes ``(M, C, h, w)`` like that map, gives what :meth:`forward` would have made of it.

        Raises:
            TypeError: The network gives one map only, or cannot be cut.
            ValueError: No such map, or none that all that follows is computed from.
        """
        raise TypeError(
            "backbone: expected one whose upper layers can be taken (torchvision_cnn, narrow_resnet, timm_net), "
            f"found {type(self).__name__}"
        )

    def class_layer(self) -> nn.Linear:
        """The layer that makes scores of classes from the mean of the map over its cells.

        Its weights ``(K, C)`` tell where on a map each of the K classes is (class activation maps).

        Raises:
            TypeError: The network is not known to have one.
            ValueError: It was not kept.
        """
        raise TypeError(
            f"backbone: expected one with a layer of classes (torchvision_cnn), found {type(self).__name__}"
        )

    def _ends(self, coarsest: int | None) -> dict[int, str]:
        """By stride, up to the coarsest that is wanted, the layers that the maps come out of, for :meth:`maps`."""
        if coarsest is not None:
            checks.one_of("coarsest", coarsest, tuple(self.stages))
        return {s: name for s, (name, _) in self.stages.items() if coarsest is None or s <= coarsest}

    def _below_last(self, stride: int) -> str:
        """The layer that the map of a stride comes out of, for :meth:`upper`."""
        known = [s for s in self.stages if s < self.stride]
        return self.stages[checks.one_of("stride", stride, known)][0]


def _per_channel(name: str, values: Sequence[float]) -> Tensor:
    return checks.finite(name, checks.shape(name, torch.tensor(list(values)), (3,))).reshape(3, 1, 1)
