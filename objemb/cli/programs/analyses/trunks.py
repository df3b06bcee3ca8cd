"""The layers of a network that are compared: its residual blocks, or its stages where it has none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from objemb.backbones.base import Backbone

#: What residual blocks are called in torchvision, Detectron2 and timm.
BLOCKS = ("BasicBlock", "Bottleneck", "BottleneckBlock")
#: The first stage of residual blocks is conv2_x (He et al. 2016, table 1).
FIRST_STAGE = 2


@dataclass(frozen=True)
class Layer:
    """A feature map of a network.

    Attributes:
        name: ``conv4_1`` for the first block of the third row of residual blocks, as the ResNet paper numbers them;
            ``stride16`` for the last map of that stride, where a network has no such blocks.
        stage: The number of its row: 4 there; layers of one row have the same.
        stride: Input pixels from one cell to the next.
        channels: Of the map.
        offset: Where its first cell begins, in input pixels; see :class:`objemb.backbones.base.Backbone`.
    """

    name: str
    stage: int
    stride: int
    channels: int
    offset: float

    def __str__(self) -> str:
        return self.name if self.name.startswith("stride") else f"{self.name} (stride {self.stride})"


class Trunk:
    """A network whose layers can be had from one pass.

    The maps of residual blocks are what leaves them, behind the addition and the ReLU.

    Args:
        network: With maps of several strides.

    Attributes:
        layers: In the order in which they are computed; none for a network of one map that has no residual blocks.
    """

    def __init__(self, network: Backbone) -> None:
        self.network = network
        self._blocks: dict[str, nn.Module] = {}
        self.layers = self._of_blocks() or self._of_stages()

    def maps(self, pixels: Tensor) -> dict[str, Tensor]:
        """By name of its layer float ``(B, C, h, w)`` of images ``(B, 3, h, w)``, RGB, 0 to 1."""
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
    """The layers of the last two rows: the range of the paper, conv4_1 to conv5_3, where the network is a ResNet."""
    last = sorted({layer.stage for layer in layers})[-2:]
    return tuple(layer for layer in layers if layer.stage in last)


def _numbered(paths: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Names and numbers of stages of blocks in their order; those within one module are a stage."""
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

    def note(name: str) -> object:
        return lambda module, inputs, output: seen.update({name: output})

    handles = [module.register_forward_hook(note(name)) for name, module in modules.items()]  # type: ignore[arg-type]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
