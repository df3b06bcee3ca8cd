"""Any convolutional classification network of torchvision, cut off at a layer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import BasicBlock, Bottleneck

from objemb import checks
from objemb.backbones._cut import lower_part, upper_part
from objemb.backbones._offset import offset
from objemb.backbones._probe import channels_and_stride, meta_copy, smallest_side, strides_of_layers, surplus
from objemb.backbones.base import FINEST_STRIDE, IMAGENET_MEAN, IMAGENET_STD, Backbone
from objemb.layers.folded import Folded
from objemb.layers.tracing import with_outputs
from objemb.registry import plugin
from objemb.weights.classifiers import checked_layer, classifier_network, fill_from, layer_names
from objemb.weights.locate import is_named

#: Names of the last convolutional stage in the families of torchvision.
LAST_STAGES = ("layer4", "trunk_output", "conv5", "inception5b", "Mixed_7c", "layers", "features")
#: Names of layers that are no part of another one; those of ``CONTAINERS`` are rows of them.
OUTER = r"\w+|(features|layers|trunk_output)\.\w+"
CONTAINERS = ("features", "layers", "trunk_output")
#: Smallest input side that every network accepts.
PROBE_SIDE = 128


@dataclass(frozen=True)
class _Shapes:
    """What a network says of its maps, whatever its weights: the attributes of :class:`Backbone`, and the layers at
    which stages end, by stride."""

    ends: Mapping[int, str]
    channels: int
    stride: int
    offset: float
    surplus: int
    smallest: int
    stages: Mapping[int, tuple[str, int]]


#: Shapes by arch and layer, found once in a process: it takes longer than to build a network.
_SHAPES: dict[tuple[str, str], _Shapes] = {}


@plugin
class TorchvisionCnn(Backbone):
    """ResNet, ResNeXt, RegNet, VGG, MobileNet, DenseNet, EfficientNet, ConvNeXt and the like as feature maps.

    Layers after ``layer`` do not run. Networks without padding (Inception, AlexNet, SqueezeNet) give a cell or two less
    than ``h / stride``.

    Args:
        arch: Name in torchvision, such as ``resnet50``.
        weights: Name in torchvision (``IMAGENET1K_V1``, ``DEFAULT``), a file with a state dict of the whole network, or
            ``random`` (None is the same here). ``DEFAULT`` may mean other weights in another version of torchvision.
        layer: Name of the layer whose output is the map, such as ``layer3`` or ``features.28``; by default the last
            convolutional features, which the network pools globally. For VGG and AlexNet that is the last ReLU before
            the final max-pool (stride 16), as usual in retrieval (Tolias et al. 2015).
        mean: Mean of the RGB channels of the training images, 0 to 1.
        std: Standard deviation of these channels.
        classes: Whether to keep the linear layer after the global average of the map; see :meth:`class_layer`.

    Raises:
        ValueError: The arch, layer or name of weights is unknown; the layer does not give a feature map; or ``classes``
            is set for a network with more than one linear layer after it.
        MissingWeightsError: The weights are not on this machine and cannot be downloaded.
        UnreadableWeightsError: The file does not fit the network.
    """

    published = "DEFAULT (or another name in torchvision, or a file)"

    def __init__(
        self,
        arch: str,
        *,
        weights: str | Path | None = None,
        layer: str | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        classes: bool = False,
    ) -> None:
        super().__init__()
        classifier = classifier_network(arch)
        self.layer = checked_layer(classifier, layer, OUTER) if layer else _last_features(classifier)
        known = _SHAPES.get((arch, self.layer))
        ends = _stage_ends(classifier, self.layer) if known is None else known.ends
        outputs = [*ends.values(), self.layer]
        self.network = with_outputs(classifier, outputs, _kept_whole(classifier, self.layer))
        self.classes = _class_layer(classifier, self.network, self.layer) if checks.flag("classes", classes) else None
        if is_named(weights):
            fill_from(weights, arch, classifier, *filter(None, (self.network, self.classes)))
        self.normalise_by(mean, std)
        self._whole = Folded(self.network)
        #: The layers up to each map, by stride; they are shared with the network, so they are not registered.
        self._lower: dict[int, Folded] = {}
        if known is None:
            known = _SHAPES[arch, self.layer] = self._shapes(arch, ends)
        self.channels, self.stride, self.offset = known.channels, known.stride, known.offset
        self.surplus, self.smallest, self.stages = known.surplus, known.smallest, dict(known.stages)

    def _shapes(self, arch: str, ends: Mapping[int, str]) -> _Shapes:
        """What is known of the maps of this network before it runs."""
        channels, stride = channels_and_stride(f"{arch}, layer {self.layer!r}", self, PROBE_SIDE)
        empty = meta_copy(self)
        finer = {at: name for at, name in ends.items() if at < stride}
        return _Shapes(
            ends,
            channels,
            stride,
            offset(empty, stride, PROBE_SIDE),
            surplus(empty, stride, self.multiple, PROBE_SIDE),
            smallest_side(empty, stride, self.multiple, PROBE_SIDE),
            _with_channels(empty.get_submodule("network"), finer | {stride: self.layer}),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Feature map ``(B, channels, h', w')`` of images ``(B, 3, h, w)``, RGB, 0 to 1."""
        return self._outputs(pixels)[self.layer]

    def maps(self, pixels: Tensor, coarsest: int | None = None) -> dict[int, Tensor]:
        """See :meth:`Backbone.maps`."""
        ends = self._ends(coarsest)
        if coarsest is None or coarsest == self.stride:
            outputs = self._outputs(pixels)
            return {stride: outputs[name] for stride, name in ends.items()}
        if coarsest not in self._lower:
            self._lower[coarsest] = Folded(lower_part(self.network, tuple(ends.values())))
        return dict(zip(ends, self._lower[coarsest](self.normalised(pixels)), strict=True))

    def upper(self, stride: int) -> nn.Module:
        """See :meth:`Backbone.upper`."""
        return upper_part(self.network, self._below_last(stride), self.layer)

    def class_layer(self) -> nn.Linear:
        """See :meth:`Backbone.class_layer`."""
        if self.classes is None:
            raise ValueError(
                "backbone: expected classes: true, which keeps the classification layer, found classes: false"
            )
        return next(m for m in self.classes.modules() if isinstance(m, nn.Linear))

    def _outputs(self, pixels: Tensor) -> dict[str, Tensor]:
        """Maps by name of their layer."""
        maps: dict[str, Tensor] = self._whole(self.normalised(pixels))
        return maps


def _last_features(classifier: nn.Module) -> str:
    """Name of the features that the network pools globally, before a final max-pool."""
    stage = next((s for s in LAST_STAGES if hasattr(classifier, s)), None)
    if stage is None:
        raise ValueError(f"layer: this arch needs one by name, one of {checks.listed(layer_names(classifier, OUTER))}")
    if isinstance(classifier, models.DenseNet):
        return "relu"  # a function in its forward, after the features
    modules = getattr(classifier, stage)
    if isinstance(modules, nn.Sequential) and isinstance(modules[-1], nn.MaxPool2d):
        return f"{stage}.{len(modules) - 2}"
    return stage


def _kept_whole(classifier: nn.Module, cut: str) -> list[type[nn.Module]]:
    """Classes of modules that tracing keeps whole, so that their outputs have names: residual blocks, unless the cut is
    inside one."""
    blocks = [n for n, m in classifier.named_modules() if isinstance(m, (BasicBlock, Bottleneck))]
    return [] if any(cut.startswith(f"{n}.") for n in blocks) else [BasicBlock, Bottleneck]


def _class_layer(classifier: nn.Module, network: nn.Module, cut: str) -> nn.Module:
    """The only linear layer after the cut, in a module in which it has the same name as in the classifier."""
    above = classifier.state_dict().keys() - network.state_dict().keys()
    linear = {n: m for n, m in classifier.named_modules() if isinstance(m, nn.Linear) and f"{n}.weight" in above}
    if len(linear) != 1 or above != {f"{n}.{k}" for n, m in linear.items() for k in m.state_dict()}:
        raise ValueError(
            f"classes: expected a network with nothing but one linear layer above {cut!r} (resnet50, mobilenet_v2), "
            f"found {checks.listed(sorted({n.rpartition('.')[0] for n in above}))}"
        )
    ((name, layer),) = linear.items()
    named: nn.Module = layer
    for part in reversed(name.split(".")):
        outer = nn.Module()
        outer.add_module(part, named)
        named = outer
    return named


def _stage_ends(classifier: nn.Module, cut: str) -> dict[int, str]:
    """The last outermost layer with a map of each stride from 4 on, before the cut.

    A cut that is not an outermost layer is inside one, or is a container of them, or is after all of them.
    """
    outer = [n for n, _ in classifier.named_modules() if re.fullmatch(OUTER, n) and n not in CONTAINERS]
    ends: dict[int, str] = {}
    for name, stride in strides_of_layers(meta_copy(classifier), outer, PROBE_SIDE).items():
        if f"{cut}.".startswith(f"{name}."):
            break
        if stride >= FINEST_STRIDE:
            ends[stride] = name
    last = max(ends, default=0)
    if ends.get(last, "").startswith(f"{cut}."):
        del ends[last]  # the end of a container is the cut
    return ends


def _with_channels(empty: nn.Module, ends: Mapping[int, str]) -> dict[int, tuple[str, int]]:
    with torch.no_grad():
        maps = empty(torch.empty(1, 3, PROBE_SIDE, PROBE_SIDE, device="meta"))
    return {stride: (name, maps[name].shape[1]) for stride, name in sorted(ends.items())}
