"""The levels below Detectron2's feature pyramids, and objemb's classification networks as trunks of Detectron2.

Importing this module registers backbones. It needs Detectron2, so it is imported inside functions only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, ResNet
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from torch import Tensor

from objemb import checks, registry
from objemb.backbones.base import Backbone as Classifier
from objemb.detectors.capabilities import TRUNK
from objemb.heads.base import is_scripting

if TYPE_CHECKING:
    from detectron2.modeling import GeneralizedRCNN

#: Name of the network's input among the maps of a backbone with trunk levels.
INPUT = "input"
#: Attributes of Detectron2's pyramids with the network below: of FPN, and of the simple pyramid of ViTDet.
BELOW = ("bottom_up", "net")
#: Largest difference of a mean or standard deviation, 0 to 255, that counts as rounding.
TOLERANCE = 0.1
#: Classes of backbones with the levels of their trunk, by those without.
_KINDS: dict[type[Backbone], type[Backbone]] = {}


def trunk_of(backbone: Backbone) -> Backbone:
    """The classification network: the part below a feature pyramid, or the whole backbone."""
    parts = dict(backbone.named_children())
    return next((parts[name] for name in BELOW if name in parts), backbone)


def trunk_levels(backbone: Backbone) -> dict[str, str]:
    """Names of the maps of the trunk by ``trunk4``, ``trunk8`` ...: the last map of each stride."""
    last = {shape.stride: name for name, shape in _own_shapes(trunk_of(backbone)).items()}
    return {f"{TRUNK}{stride}": name for stride, name in sorted(last.items())}


def with_trunk(backbone: Backbone) -> Backbone:
    """The same backbone, which gives also the levels of its trunk and its input; its parameters keep their names."""
    if not isinstance(backbone, _WithTrunk):
        backbone.__class__ = _with_trunk(type(backbone))
    return backbone


def lower_maps(backbone: Backbone, pixels: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Maps by the names of levels. If all are levels of a trunk that is a ResNet or a network of objemb, the layers
    above them do not run.

    Args:
        backbone: A backbone of Detectron2.
        pixels: float ``(B, 3, h, w)``, normalised.
        names: ``trunk8`` and the like, or maps of the backbone.
    """
    known = trunk_levels(backbone)
    if not all(name in known for name in names):
        maps = with_trunk(backbone)(pixels)
        return {name: maps[name] for name in names}
    trunk = trunk_of(backbone)
    if isinstance(trunk, ObjembTrunk):
        lower = trunk.lower(pixels, [known[name] for name in names])
    elif isinstance(trunk, ResNet):
        lower = _resnet_maps(trunk, pixels, {known[name] for name in names})
    else:
        lower = Backbone.__call__(trunk, pixels)
    return {name: lower[known[name]] for name in names}


class _WithTrunk(Backbone):  # type: ignore[misc]  # no types
    """First base of backbones that also give the levels of their trunk, see :func:`with_trunk`."""

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        if is_scripting():
            raise TypeError(
                "backbone: expected one without the levels of its trunk, since hooks give these, which TorchScript "
                "does not know; objemb.detectors.detectron2_rcnn.scripted compiles such a network"
            )
        else:
            return self.levels_and_maps(pixels)

    @torch.jit.unused
    def levels_and_maps(self, pixels: Tensor) -> dict[str, Tensor]:
        """The maps of :meth:`forward`."""
        trunk, below = trunk_of(self), {}
        if trunk is self:
            below = maps = super().forward(pixels)
        else:
            hook = trunk.register_forward_hook(lambda _module, _args, outputs: below.update(outputs))
            try:
                maps = super().forward(pixels)
            finally:
                hook.remove()
        return {INPUT: pixels, **{level: below[name] for level, name in trunk_levels(self).items()}, **maps}

    def output_shape(self) -> dict[str, ShapeSpec]:
        below = _own_shapes(trunk_of(self))
        return {**super().output_shape(), **{level: below[name] for level, name in trunk_levels(self).items()}}


def _own_shapes(backbone: Backbone) -> Mapping[str, ShapeSpec]:
    """Channels and strides of the maps of a backbone, without the names of trunk levels for them."""
    own = super(_WithTrunk, backbone).output_shape() if isinstance(backbone, _WithTrunk) else backbone.output_shape()
    return cast(Mapping[str, ShapeSpec], own)


def _with_trunk(kind: type[Backbone]) -> type[Backbone]:
    if kind not in _KINDS:
        _KINDS[kind] = type(f"{kind.__name__}WithTrunk", (_WithTrunk, kind), {})
    return _KINDS[kind]


def _resnet_maps(trunk: ResNet, pixels: Tensor, wanted: set[str]) -> dict[str, Tensor]:
    levels: dict[str, Tensor] = {}
    level = trunk.stem(pixels)
    for layer, stage in zip(trunk.stage_names, trunk.stages, strict=True):
        level = stage(level)
        if layer in wanted:
            levels[layer] = level
        if len(levels) == len(wanted):
            break
    return levels


@BACKBONE_REGISTRY.register()  # type: ignore[untyped-decorator]  # no types
def build_backbone_with_trunk(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """The backbone that ``MODEL.ROI_EMBEDDING_HEAD.ABOVE`` names, with the levels of its trunk."""
    build = BACKBONE_REGISTRY.get(cfg.MODEL.ROI_EMBEDDING_HEAD.ABOVE)
    return with_trunk(build(cfg, input_shape))


class ObjembTrunk(Backbone):  # type: ignore[misc]  # no types
    """A classification network of objemb as a trunk of Detectron2, such as ``mobilenet_v2`` of torchvision or any
    convolutional network of timm. Its maps are called ``trunk4``, ``trunk8`` ...

    Pixels arrive normalised by the config, with the mean and standard deviation of the network, so that padding is of
    the mean colour.

    Args:
        body: The network.
        frozen: Its layers up to the map of this stride are not trained; 0 to train all.
    """

    def __init__(self, body: Classifier, frozen: int = 0) -> None:
        super().__init__()
        if not body.stages:
            raise TypeError(
                "MODEL.OBJEMB_BACKBONE: expected a network with maps of several strides, such as torchvision_cnn, "
                f"found {type(body).__name__}"
            )
        self.body = body
        self._out_features = [f"{TRUNK}{stride}" for stride in body.stages]
        self._out_feature_strides = {f"{TRUNK}{stride}": stride for stride in body.stages}
        self._out_feature_channels = {f"{TRUNK}{s}": channels for s, (_, channels) in body.stages.items()}
        if frozen:
            self._freeze(checks.one_of("MODEL.OBJEMB_BACKBONE.frozen", frozen, tuple(body.stages)))

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Maps by name."""
        return {f"{TRUNK}{stride}": level for stride, level in self.body.maps(self._raw(pixels)).items()}

    def lower(self, pixels: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Some maps; layers above them do not run."""
        coarsest = max(self._out_feature_strides[name] for name in names)
        maps = self.body.maps(self._raw(pixels), coarsest)
        return {name: maps[self._out_feature_strides[name]] for name in names}

    def _raw(self, pixels: Tensor) -> Tensor:
        return pixels * self.body.std + self.body.mean

    def _freeze(self, stride: int) -> None:
        above = set(self.body.upper(stride).state_dict()) if stride < self.body.stride else set()
        for name, parameter in self.body.get_submodule("network").named_parameters():
            if name not in above:
                parameter.requires_grad_(False)


@BACKBONE_REGISTRY.register()  # type: ignore[untyped-decorator]  # no types
def build_objemb_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """A feature pyramid on the network of ``MODEL.OBJEMB_BACKBONE``; ``MODEL.FPN.IN_FEATURES`` are such as ``trunk8``.

    Raises:
        ValueError: The config normalises pixels otherwise than the network needs.
    """
    del input_shape
    node = cfg.MODEL.OBJEMB_BACKBONE
    settings = {key: value for key, value in node.items() if value not in ("", None) and key != "frozen"}
    body = registry.build(Classifier, settings)
    for key, values in (("MEAN", body.mean), ("STD", body.std)):
        expected, found = (255 * values).flatten().tolist(), [float(v) for v in cfg.MODEL[f"PIXEL_{key}"]]
        if cfg.INPUT.FORMAT != "RGB" or any(abs(a - b) > TOLERANCE for a, b in zip(expected, found, strict=True)):
            numbers = ", ".join(f"{value:.3f}" for value in expected)
            raise ValueError(
                f"MODEL.PIXEL_{key}: expected [{numbers}] with INPUT.FORMAT RGB, as {node.name} needs, found {found} "
                f"with {cfg.INPUT.FORMAT}"
            )
    return FPN(
        bottom_up=ObjembTrunk(body, node.frozen),
        in_features=list(cfg.MODEL.FPN.IN_FEATURES),
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def stages_for_levels(cfg: CfgNode) -> None:
    """Keep all stages of a ResNet, so that features can be read from each of them."""
    stages = [int(name.removeprefix("res")) for name in cfg.MODEL.RESNETS.OUT_FEATURES if name.startswith("res")]
    cfg.MODEL.RESNETS.OUT_FEATURES = [f"res{stage}" for stage in range(2, max(stages, default=1) + 1)]


def shapes_of(network: GeneralizedRCNN) -> Mapping[str, tuple[int, int]]:
    """Channels and stride of each map of the backbone of a network, levels of the trunk included."""
    return map_shapes(with_trunk(network.backbone))


def map_shapes(backbone: Backbone) -> dict[str, tuple[int, int]]:
    """Channels and stride of each map of a backbone."""
    return {name: (shape.channels, shape.stride) for name, shape in backbone.output_shape().items()}


def trunk_prefix(backbone: Backbone) -> str:
    """Beginning of the names of the tensors of the trunk in a network."""
    trunk = trunk_of(backbone)
    return next((f"backbone.{name}." for name, part in backbone.named_children() if part is trunk), "backbone.")
