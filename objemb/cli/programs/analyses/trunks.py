"""The layers of a network that are compared: its residual blocks, or its stages if it has none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from objemb.backbones.base import Backbone

#: Class names of residual blocks in torchvision, Detectron2 and timm.
BLOCKS = ("BasicBlock", "Bottleneck", "BottleneckBlock")
#: The first stage of residual blocks is conv2_x (He et al. 2016, table 1).
FIRST_STAGE = 2


@dataclass(frozen=True)
class Layer:
    """A feature map of a network.

    Attributes:
        name: ``conv4_1`` for the first block of the third stage of residual blocks, as numbered in the ResNet paper;
            ``stride16`` for the last map of that stride in a network without such blocks.
        stage: Number of its stage, such as 4 for ``conv4_1``.
        stride: Input pixels from one cell to the next.
        channels: Channels of the map.
        offset: Start of the first cell in input pixels; see :class:`objemb.backbones.base.Backbone`.
    """

    name: str
    stage: int
    stride: int
    channels: int
    offset: float

    def __str__(self) -> str:
        return self.name if self.name.startswith("stride") else f"{self.name} (stride {self.stride})"


class Trunk:
    """A network that gives the maps of all its layers in one pass.

    The map of a residual block is its output, after the addition and the ReLU.

    Args:
        network: A network with maps of several strides.

    Attributes:
        layers: The layers in the order in which they are computed; empty for a network with a single map and no
            residual blocks.
    """

    def __init__(self, network: Backbone) -> None:
        self.network = network
        self._blocks: dict[str, nn.Module] = {}
        self.layers = self._of_blocks() or self._of_stages()

    def maps(self, pixels: Tensor) -> dict[str, Tensor]:
        """The maps, float ``(B, C, h, w)``, by the name of their layer, of images ``(B, 3, H, W)``, RGB, 0 to 1."""
        if self._blocks:
            with _watched(self._blocks) as seen:
                self.network(pixels)
            return seen
        by_stride = self.network.maps(pixels)
        return {layer.name: by_stride[layer.stride] for layer in self.layers}

    @torch.no_grad()
    def _of_blocks(self) -> tuple[Layer, ...]:
        network = self.network
        blocks = {path: m for path, m in network.named_modules() if type(m).__name__ in BLOCKS}
        if not blocks or not network.stages:
            return ()
        side = -(-4 * network.smallest // network.multiple) * network.multiple
        with _watched(blocks) as seen:
            network(torch.zeros(1, 3, side, side, device=network.device))
        names = _numbered(list(seen))  # those that the map is computed from, in the order of computation
        self._blocks = {names[path][0]: blocks[path] for path in seen}
        strides = {path: side // map_.shape[2] for path, map_ in seen.items()}
        offsets = network.offsets()
        return tuple(
            Layer(*names[path], strides[path], map_.shape[1], offsets[strides[path]])
            for path, map_ in seen.items()
            if strides[path] in offsets
        )

    def _of_stages(self) -> tuple[Layer, ...]:
        offsets = self.network.offsets()
        stages = enumerate(self.network.stages.items())
        return tuple(Layer(f"stride{s}", n, s, channels, offsets[s]) for n, (s, (_, channels)) in stages)


def sweep(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """The layers of the last two stages: conv4_1 to conv5_3 of a ResNet, the range of the paper."""
    last = sorted({layer.stage for layer in layers})[-2:]
    return tuple(layer for layer in layers if layer.stage in last)


def _numbered(paths: Sequence[str]) -> dict[str, tuple[str, int]]:
    """The name and stage of each block, in order; the blocks of one parent module form a stage."""
    names: dict[str, tuple[str, int]] = {}
    stage, number, before = FIRST_STAGE - 1, 0, None
    for path in paths:
        row = path.rpartition(".")[0]
        stage, number = (stage, number + 1) if row == before else (stage + 1, 1)
        names[path], before = (f"conv{stage}_{number}", stage), row
    return names


@contextmanager
def _watched(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """The outputs of modules, by name, while this context is open."""
    seen: dict[str, Tensor] = {}

    def note(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen[name] = output

    handles = [module.register_forward_hook(partial(note, name)) for name, module in modules.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
