"""Any network of timm that declares its features, transformers such as DINOv2 included."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from objemb import checks
from objemb.backbones._offset import offset
from objemb.backbones._probe import hollow, map_shape, map_shape_or_none, smallest_side
from objemb.backbones.base import Backbone
from objemb.checks import MissingWeightsError
from objemb.ops.weight_files import UnreadableWeightsError, read_weights
from objemb.ops.weights import existing_file, fetch, fill, is_named, of_module
from objemb.registry import plugin

PRETRAINED = "pretrained"
#: The file of a network in the repository that timm names.
HUB_FILE = "model.safetensors"


@plugin
class TimmNet(Backbone):
    """A network of timm as a feature map; mean and deviation are those that timm states for the weights.

    Channels and stride are the ones that timm declares; the probe at construction refuses a network that does not keep
    to them. A network of one fixed input size has ``multiple`` equal to that size, and refuses others.

    Args:
        arch: Name in timm, such as ``resnet50`` or ``vit_small_patch14_dinov2``, with or without a tag
            (``resnet50.a1_in1k``).
        weights: ``pretrained`` for those of the arch's tag (timm's default tag when it has none), a tag, a file with a
            state dict of the whole network, or ``random`` (None is the same here).
        layer: Which of the declared features: a number as in ``-1``, or a name as in ``blocks.9``; by default the last.
        image_size: Input side of a network that has one fixed size; by default its own.
        norm: Whether the final norm of a transformer is applied to the features, as DINOv2 wants it.

    Raises:
        ValueError: Unknown arch, tag or layer; a network whose features are not a map.
        MissingWeightsError: The weights are neither here nor to be had.
        UnreadableWeightsError: The file does not fit the network.
        ImportError: timm is not installed.
    """

    mean: Tensor
    std: Tensor
    published = "pretrained (or a tag of timm, or a file)"

    def __init__(
        self,
        arch: str,
        *,
        weights: str | Path | None = None,
        layer: int | str | None = None,
        image_size: int | None = None,
        norm: bool = True,
    ) -> None:
        super().__init__()
        arch, weights = _with_tag(arch, weights)
        self.network = _network(arch, image_size)
        self.norm = norm
        declared = _declared(arch, self.network)
        number = _number(declared, layer)
        state, source = _weights(self.network, weights)
        known = self.network.state_dict().keys()
        self.index = self.network.prune_intermediate_layers([number], prune_norm=not norm, prune_head=True)[0]
        if state is not None:
            fill(self.network, of_module(self.network, state, source), source, known)
        data = _timm().data.resolve_model_data_config(self.network)
        self.register_buffer("mean", torch.tensor(data["mean"]).reshape(3, 1, 1))
        self.register_buffer("std", torch.tensor(data["std"]).reshape(3, 1, 1))
        self.channels = declared[number].get("num_chs_norm" if norm else "num_chs", declared[number]["num_chs"])
        self.stride = declared[number]["reduction"]
        self.eval()
        self.only_side: int | None = None
        own_side = image_size or data["input_size"][-1]
        self.multiple, self.only_side = self._accepted_sides(arch, own_side)
        empty = hollow(self)
        self.offset = offset(empty, self.stride, own_side)
        self.smallest = self.only_side or smallest_side(empty, self.stride, self.multiple, own_side)

    def train(self, mode: bool = True) -> TimmNet:
        """Stays in eval mode, whatever ``mode`` says."""
        return super().train(False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Feature map ``(B, channels, h', w')`` of images ``(B, 3, h, w)``, RGB, 0 to 1.

        Raises ``ValueError`` for a size that the network cannot take.
        """
        self._check_size(pixels.shape[-2], pixels.shape[-1])
        return self.network.forward_intermediates(
            (pixels - self.mean).div_(self.std),
            indices=[self.index],
            norm=self.norm,
            output_fmt="NCHW",
            intermediates_only=True,
        )[0]

    def _check_size(self, height: int, width: int) -> None:
        side = self.only_side
        if side is not None and (height, width) != (side, side):
            raise ValueError(
                f"pixels: expected {side} x {side}, the only size of this network, found {height} x {width}"
            )
        if height % self.multiple or width % self.multiple:
            raise ValueError(f"pixels: expected sides of multiples of {self.multiple}, found {height} x {width}")

    def _accepted_sides(self, arch: str, side: int) -> tuple[int, int | None]:
        """Of what sides have to be multiples, and the only side if there is just one.

        Raises ``ValueError`` when the map does not keep to the declared channels and stride.
        """
        stride, empty = self.stride, hollow(self)
        try:
            shape = map_shape(empty, side, side)
        except Exception as error:  # networks of timm raise whatever their layers do
            raise ValueError(
                f"{arch}: expected a feature map for its own input side {side}, found {type(error).__name__}: {error} "
                f"(norm={self.norm}: some networks have no norm for their features)"
            ) from error
        larger = map_shape_or_none(empty, side + stride, side + 2 * stride)
        fits = side // stride - 1 <= shape[2] <= side // stride + 1
        grows = larger is None or larger[2:] == (shape[2] + 1, shape[3] + 2)
        if shape[1] != self.channels or not fits or not grows:
            raise ValueError(
                f"{arch}: expected {self.channels} channels and stride {stride} as declared, "
                f"found shape {shape} for side {side} and {larger} for {side + stride} x {side + 2 * stride}"
            )
        if larger is None:
            return side, side
        return (1 if map_shape_or_none(empty, side + 1, side + stride - 1) else stride), None


def _timm() -> Any:
    try:
        import timm
        import timm.data
    except ImportError as error:
        raise ImportError("timm_net needs timm: pip install 'objemb[timm]'") from error
    return timm


def _with_tag(arch: str, weights: str | Path | None) -> tuple[str, str | Path | None]:
    """The arch with the tag that ``weights`` names, which then becomes ``pretrained``."""
    timm = _timm()
    if not timm.is_model(arch):
        raise ValueError(f"arch: expected a network of timm, found {arch!r}{checks.nearest(arch, timm.list_models())}")
    base, _, tag = arch.partition(".")
    tags = _tags(base)
    if tag:
        checks.one_of(f"tag of {base}", tag, tags)
    if not is_named(weights):
        return arch, None
    if weights == PRETRAINED:
        return arch, weights
    if weights in tags:
        if tag and tag != weights:
            raise ValueError(f"weights: expected 'pretrained' or {tag!r}, the tag of the arch, found {weights!r}")
        return f"{base}.{weights}", PRETRAINED
    return arch, existing_file(weights, [PRETRAINED, *tags])


def _tags(base: str) -> list[str]:
    return [name.partition(".")[2] for name in _timm().list_pretrained(f"{base}.*")]


def _network(arch: str, image_size: int | None) -> Any:
    """The whole network with random weights, for any input size if it can."""
    create = _timm().create_model
    size = {} if image_size is None else {"img_size": checks.positive("image_size", image_size)}
    try:
        return create(arch, pretrained=False, dynamic_img_size=True, **size)
    except TypeError:  # not an argument of every network
        pass
    try:
        return create(arch, pretrained=False, **size)
    except TypeError as error:
        raise ValueError(
            f"image_size: expected None, for {arch} has no fixed input size; found {image_size}"
        ) from error


def _declared(arch: str, network: Any) -> list[dict[str, Any]]:
    """What timm declares of each feature: ``module``, ``num_chs``, ``reduction``."""
    declared = list(getattr(network, "feature_info", None) or [])
    if not declared or not hasattr(network, "forward_intermediates"):
        raise ValueError(f"arch: expected a network of timm with declared features, found {arch!r}")
    return declared


def _number(declared: list[dict[str, Any]], layer: int | str | None) -> int:
    """Which of the declared features is meant, from 0."""
    names = [str(info["module"]) for info in declared]
    if layer is None:
        return len(names) - 1
    if isinstance(layer, str):
        return names.index(checks.one_of("layer", layer, names))
    return range(len(names))[int(checks.between("layer", layer, -len(names), len(names) - 1))]


def _weights(network: Any, weights: str | Path | None) -> tuple[Mapping[str, Tensor] | None, str]:
    """A state dict for the whole network, and where it is from."""
    if weights is None:
        return None, ""
    file = _published_file(network.pretrained_cfg) if weights == PRETRAINED else Path(weights)
    state = read_weights(file)
    # timm translates the layout of the original authors, and position embeddings of another size, family by family
    translate = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if translate is None:
        return state, str(file)
    try:
        return translate(state, network), str(file)
    except Exception as error:  # a file of another network
        raise UnreadableWeightsError(
            f"{file}: the weights do not fit the network ({type(error).__name__}: {error})"
        ) from error


def _published_file(published: dict[str, Any]) -> Path:
    """The file with the weights that timm states for a network: from a cache, or downloaded."""
    repository, url = published.get("hf_hub_id"), published.get("url")
    if repository:
        from huggingface_hub import hf_hub_url, try_to_load_from_cache  # timm brings it

        name = published.get("hf_hub_filename") or HUB_FILE
        cached = try_to_load_from_cache(repository, name)
        if isinstance(cached, str):
            return Path(cached)
        return fetch(hf_hub_url(repository, name), f"{repository.replace('/', '--')}--{name}")
    if url:
        return fetch(url)
    raise MissingWeightsError(f"weights: timm publishes none for {published.get('architecture')}; pass a file")
