"""A small residual network for training from scratch."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from objemb import checks
from objemb.backbones._offset import offset
from objemb.backbones._probe import meta_copy, surplus
from objemb.backbones.base import IMAGENET_MEAN, IMAGENET_STD, Backbone
from objemb.layers.folded import Folded, in_turn
from objemb.layers.strided import guard_strided
from objemb.registry import plugin
from objemb.weights.fill import fill, of_module
from objemb.weights.locate import existing_file, is_named
from objemb.weights.read import read_weights

STAGES = ("layer1", "layer2", "layer3", "layer4")
STRIDES = (16, 32)


@plugin
class NarrowResnet(Backbone):
    """A ResNet of basic blocks (He et al. 2016, table 1: ResNet-18 and -34) of any width.

    The names of its layers are those of torchvision (``conv1``, ``bn1``, ``layer1`` ... ``layer4``), so that
    ``width=64, stride=32`` takes the weights of torchvision's ``resnet18`` from a file. The maps of the four stages
    have strides 4, 8, 16 and ``stride``, and ``width``, ``2 width``, ``4 width`` and ``8 width`` channels.

    Args:
        width: Channels of the first stage; 64 in the paper.
        blocks: Number of basic blocks of each of the four stages.
        stride: Stride of the last map: 32 as in the paper, or 16, which keeps the last stage at the resolution of the
            third.
        weights: A file with a state dict, or ``random`` (None is the same here).
        layer: The stage whose map is the output; later stages are not built.

    Attributes:
        network: The layers by name, in order.

    Raises:
        ValueError: Values are out of range.
        MissingWeightsError: The file does not exist.
        UnreadableWeightsError: The file does not fit the network.
    """

    def __init__(
        self,
        *,
        width: int = 24,
        blocks: Sequence[int] = (2, 2, 2, 2),
        stride: int = 16,
        weights: str | Path | None = None,
        layer: str = "layer4",
    ) -> None:
        super().__init__()
        width = checks.whole("width", width)
        blocks = [checks.whole("blocks", b) for b in checks.several("blocks", blocks)]
        if len(blocks) != len(STAGES):
            raise ValueError(f"blocks: expected {len(STAGES)} numbers, one a stage, found {blocks}")
        steps = (1, 2, 2, checks.one_of("stride", stride, STRIDES) // 16)
        count = STAGES.index(checks.one_of("layer", layer, STAGES)) + 1
        layers = _stem(width)
        channels = width
        for name, number, step in list(zip(STAGES, blocks, steps, strict=True))[:count]:
            wider = width << STAGES.index(name)
            layers[name] = _stage(channels, wider, number, step)
            channels = wider
        self.network = nn.Sequential(layers)
        #: The layers up to each map, by stride; they are shared with the network.
        self._parts: dict[int, Folded] = {}
        guard_strided(self.network)
        self._start()
        if is_named(weights):
            file = existing_file(weights, ())
            fill(self.network, of_module(self.network, read_weights(file), file), file)
        self.normalise_by(IMAGENET_MEAN, IMAGENET_STD)
        self.channels, self.stride = channels, (4, 8, 16, stride)[count - 1]
        self.stages = {
            s: (n, width << STAGES.index(n)) for s, n in zip((4, 8, 16, stride), STAGES[:count], strict=False)
        }
        self.smallest = self.stride
        empty = meta_copy(self)
        self.offset = offset(empty, self.stride, 4 * self.stride)
        self.surplus = surplus(empty, self.stride, self.multiple, 4 * self.stride)

    def forward(self, pixels: Tensor) -> Tensor:
        """Feature map ``(B, channels, h', w')`` of images ``(B, 3, h, w)``, RGB, 0 to 1."""
        return self.maps(pixels)[self.stride]

    def maps(self, pixels: Tensor, coarsest: int | None = None) -> dict[int, Tensor]:
        """See :meth:`Backbone.maps`."""
        ends = self._ends(coarsest)
        last = max(ends)
        if last not in self._parts:
            self._parts[last] = Folded(in_turn(self.network, tuple(ends.values())))
        maps: dict[str, Tensor] = self._parts[last](self.normalised(pixels))
        return {stride: maps[name] for stride, name in ends.items()}

    def upper(self, stride: int) -> nn.Module:
        """See :meth:`Backbone.upper`."""
        layers = list(self.network.named_children())
        first = [name for name, _ in layers].index(self._below_last(stride)) + 1
        return copy.deepcopy(nn.Sequential(OrderedDict(layers[first:]))).eval()

    def _start(self) -> None:
        """Initialise convolutions as in He et al., "Delving deep into rectifiers", 2015 (fan-out), and norms as
        identities."""
        for module in self.network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _stem(width: int) -> OrderedDict[str, nn.Module]:
    return OrderedDict(
        conv1=nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False),
        bn1=nn.BatchNorm2d(width),
        relu=nn.ReLU(inplace=True),
        maxpool=nn.MaxPool2d(3, stride=2, padding=1),
    )


def _stage(channels: int, wider: int, blocks: int, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1 or channels != wider:
        shortcut = nn.Sequential(nn.Conv2d(channels, wider, 1, stride, bias=False), nn.BatchNorm2d(wider))
    first = BasicBlock(channels, wider, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(wider, wider) for _ in range(blocks - 1)))
