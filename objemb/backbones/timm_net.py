"""Any network of timm that declares its features, including transformers such as DINOv2."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NotRequired, TypedDict, cast

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.symbolic_shapes import statically_known_true

from objemb import checks
from objemb.backbones._cut import upper_part
from objemb.backbones._offset import offset
from objemb.backbones._probe import map_shape, map_shape_or_none, meta_copy, smallest_side, surplus
from objemb.backbones.base import FINEST_STRIDE, Backbone
from objemb.checks import MissingWeightsError
from objemb.layers.tracing import OwnThread
from objemb.registry import plugin
from objemb.weights.download import fetch
from objemb.weights.fill import fill, of_module
from objemb.weights.locate import existing_file, is_named
from objemb.weights.read import UnreadableWeightsError, read_weights

PRETRAINED = "pretrained"
#: The file of a network in the repository that timm names.
HUB_FILE = "model.safetensors"


class _FeatureInfo(TypedDict):
    """What timm declares of a feature."""

    module: str
    num_chs: int
    num_chs_norm: NotRequired[int]
    reduction: int


@plugin
class TimmNet(Backbone):
    """A network of timm as a feature map, normalised with the mean and standard deviation that timm declares.

    Channels and stride are those that timm declares; a network whose output differs is an error at construction. For a
    network with a fixed input size, ``multiple`` is that size, and other sizes are errors.

    A network that declares features of several strides, and takes images of any size, gives the last feature of each
    stride as maps. It can be cut if ``torch.fx`` can trace its layers, which holds for nearly all convolutional
    networks.

    Args:
        arch: Name in timm, such as ``resnet50`` or ``vit_small_patch14_dinov2``, with or without a tag
            (``resnet50.a1_in1k``).
        weights: ``pretrained`` for those of the arch's tag (timm's default tag when it has none), a tag, a file with a
            state dict of the whole network, or ``random`` (None is the same here).
        layer: One of the declared features: an index such as ``-1``, or a name such as ``blocks.9``; by default the
            last.
        image_size: Input side of a network with a fixed size; by default its own.
        norm: Whether the final norm of a transformer is applied to the features, as intended for DINOv2.

    Raises:
        ValueError: The arch, tag or layer is unknown, or the features are not a map.
        MissingWeightsError: The weights are not on this machine and cannot be downloaded.
        UnreadableWeightsError: The file does not fit the network.
        ImportError: timm is not installed.
    """

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
        self.normalise_by(data["mean"], data["std"])
        feature = declared[number]
        self.channels = feature.get("num_chs_norm", feature["num_chs"]) if norm else feature["num_chs"]
        self.stride = feature["reduction"]
        self.only_side: int | None = None
        own_side = image_size or data["input_size"][-1]
        self.multiple, self.only_side = self._accepted_sides(arch, own_side)
        empty = meta_copy(self)
        self.offset = offset(empty, self.stride, own_side)
        self.surplus = surplus(empty, self.stride, self.multiple, own_side)
        self.smallest = self.only_side or smallest_side(empty, self.stride, self.multiple, own_side)
        self.arch = arch
        self.stages, self._numbers = self._declared_stages(declared[: number + 1], own_side)

    def forward(self, pixels: Tensor) -> Tensor:
        """Feature map ``(B, channels, h', w')`` of images ``(B, 3, h, w)``, RGB, 0 to 1.

        Raises ``ValueError`` for a size that the network cannot take.
        """
        return self._features(pixels, [self.index])[0]

    def maps(self, pixels: Tensor, coarsest: int | None = None) -> dict[int, Tensor]:
        """See :meth:`Backbone.maps`."""
        if not self.stages:
            raise TypeError(
                "backbone: expected one with maps of several strides, such as a convolutional network, "
                f"found {self.arch} of timm, which gives one map"
            )
        strides = self._ends(coarsest)
        return dict(zip(strides, self._features(pixels, self._numbers[: len(strides)]), strict=True))

    def upper(self, stride: int) -> nn.Module:
        """See :meth:`Backbone.upper`. What was taken is tried on an image first."""
        wanted = (
            "backbone: expected one whose upper layers can be taken, such as a convolutional network, "
            f"found {self.arch} of timm"
        )
        if not self.stages:
            raise TypeError(f"{wanted}, which gives one map")
        self._below_last(stride)
        try:
            traced = _traced(self.network, dict(zip(self.stages, self._numbers, strict=True)), self.norm)
        except Exception as error:  # torch.fx raises many kinds of errors
            raise TypeError(
                f"{wanted}, whose layers torch.fx cannot trace ({type(error).__name__}: {error})"
            ) from error
        upper = upper_part(traced, stride, self.stride)
        if not self._goes_on(upper, stride):
            raise TypeError(f"{wanted}, which torch.fx does not trace correctly")
        return upper

    @torch.no_grad()
    def _goes_on(self, upper: nn.Module, stride: int) -> bool:
        """Whether ``upper`` computes the same last map from that of a stride as the whole network."""
        side = -(-max(self.smallest, 3 * self.stride) // self.multiple) * self.multiple
        noise = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(self.mean)
        maps = self.maps(noise)
        expected = maps[self.stride].clone()
        recomputed = upper(maps[stride])
        tolerance = 1e-4 * float(expected.abs().max())
        return recomputed.shape == expected.shape and torch.allclose(
            recomputed, expected, 1e-4, tolerance, equal_nan=True
        )

    def _features(self, pixels: Tensor, numbers: Sequence[int]) -> list[Tensor]:
        """The features of these numbers. Raises ``ValueError`` for a size that the network cannot take."""
        self._check_size(pixels.shape[-2], pixels.shape[-1])
        return _intermediates(self.network, self.normalised(pixels), numbers, self.norm)

    def _check_size(self, height: int, width: int) -> None:
        side = self.only_side
        if side is not None and (height, width) != (side, side):
            raise ValueError(
                f"pixels: expected {side} x {side}, the only size of this network, found {height} x {width}"
            )
        if height % self.multiple or width % self.multiple:
            raise ValueError(f"pixels: expected sides of multiples of {self.multiple}, found {height} x {width}")

    def _accepted_sides(self, arch: str, side: int) -> tuple[int, int | None]:
        """The number that sides have to be multiples of, and the only possible side if it is fixed.

        Raises ``ValueError`` if the map does not have the declared channels and stride.
        """
        stride, empty = self.stride, meta_copy(self)
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

    def _declared_stages(
        self, declared: Sequence[_FeatureInfo], side: int
    ) -> tuple[dict[int, tuple[str, int]], list[int]]:
        """Stages as for :class:`Backbone`, and the indices of their declared features: the last one of each stride.

        Empty for a network whose maps do not grow with the image as declared, or with a fixed input size.
        """
        ends = {int(info["reduction"]): n for n, info in enumerate(declared) if info["reduction"] >= FINEST_STRIDE}
        strides, numbers = sorted(ends), sorted(ends.values())
        if self.only_side or len(ends) < 2 or [ends[s] for s in strides] != numbers or self.stride != strides[-1]:
            return {}, []
        small, large = (self._shapes(numbers, s) for s in (side, side + self.stride))
        if len(small) != len(strides) or [
            after[2] - before[2] for before, after in zip(small, large, strict=False)
        ] != [self.stride / s for s in strides]:
            return {}, []
        levels = zip(strides, numbers, small, strict=True)
        return {s: (str(declared[n]["module"]), shape[1]) for s, n, shape in levels}, numbers

    def _shapes(self, numbers: Sequence[int], side: int) -> list[tuple[int, ...]]:
        """Shapes of features of an image; empty if the network rejects its size."""
        pixels = torch.empty(1, 3, side, side, device="meta")
        try:
            with torch.no_grad():
                return [tuple(map_.shape) for map_ in meta_copy(self)._features(pixels, numbers)]
        except Exception:  # networks of timm raise whatever their layers do
            return []


def _intermediates(network: Any, pixels: Tensor, numbers: Sequence[int], norm: bool) -> list[Tensor]:
    """Features with the given indices, of normalised images, in one pass; layers after the last of them do not run."""
    features: list[Tensor] = network.forward_intermediates(
        pixels, indices=list(numbers), norm=norm, stop_early=True, output_fmt="NCHW", intermediates_only=True
    )
    return features


def _traced(network: nn.Module, numbers: Mapping[int, int], norm: bool) -> fx.GraphModule:
    """A traced network that computes the features with the given indices from normalised images, with outputs by key.

    It shares its layers with the network. Modules that timm declares as not traceable are kept whole.
    """
    layers = _timm().layers
    whole = tuple(layers.get_notrace_modules())

    class Tracer(OwnThread):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return isinstance(m, whole) or super().is_leaf_module(m, module_qualified_name)

        def call_module(
            self, m: nn.Module, forward: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]
        ) -> object:
            if type(m) is nn.Sequential:  # it may be a slice of a Sequential, which is not a module of the network
                return forward(*args, **kwargs)
            return super().call_module(m, forward, args, kwargs)

    class Pass(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, pixels: Tensor) -> dict[int, Tensor]:
            features = _intermediates(self.network, pixels, list(numbers.values()), norm)
            return dict(zip(numbers, features, strict=True))

    graph = Tracer(autowrap_functions=tuple(layers.get_notrace_functions())).trace(Pass())
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            node.target = node.target.removeprefix("network.")
    return fx.GraphModule(network, graph).eval()


def _timm() -> ModuleType:
    try:
        import timm
        import timm.data
        import timm.layers
    except ImportError as error:
        raise ImportError("timm_net needs timm: pip install 'objemb[timm]'") from error
    return timm


@contextmanager
def traceable_padding() -> Iterator[None]:
    """While this is open, networks of timm that come from TensorFlow pad their maps by integer arithmetic.

    timm computes the padding from a quotient in floating point that is rounded up. Where lengths are symbols, those of
    later maps are then nested quotients, over which a tracer spends minutes, or which it cannot decide about. The
    padding of a length that is known to be a multiple of the stride is a number.
    """
    padding: Any = sys.modules.get("timm.layers.padding")
    if padding is None:  # no network of timm, then
        yield
        return
    before = padding.get_same_padding
    padding.get_same_padding = _same_padding
    try:
        yield
    finally:
        padding.get_same_padding = before


def _same_padding(length: int, kernel: int, stride: int, dilation: int) -> int:
    """Zeros that a map gets along one side, so that there are ``length / stride`` results, rounded up."""
    reach = dilation * (kernel - 1) + 1
    if statically_known_true(length % stride == 0):
        return max(reach - stride, 0)
    results = (length + stride - 1) // stride
    return cast(int, torch.sym_max((results - 1) * stride + reach - length, 0))


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
            f"image_size: expected None, because {arch} has no fixed input size; found {image_size}"
        ) from error


def _declared(arch: str, network: object) -> list[_FeatureInfo]:
    """timm's declaration of each feature: ``module``, ``num_chs``, ``reduction``."""
    declared = list(getattr(network, "feature_info", None) or [])
    if not declared or not hasattr(network, "forward_intermediates"):
        raise ValueError(f"arch: expected a network of timm with declared features, found {arch!r}")
    return declared


def _number(declared: Sequence[_FeatureInfo], layer: int | str | None) -> int:
    """The index of the declared feature, from 0."""
    names = [str(info["module"]) for info in declared]
    if layer is None:
        return len(names) - 1
    if isinstance(layer, str):
        return names.index(checks.one_of("layer", layer, names))
    return range(len(names))[int(checks.between("layer", layer, -len(names), len(names) - 1))]


def _weights(network: Any, weights: str | Path | None) -> tuple[Mapping[str, Tensor] | None, str]:
    """A state dict for the whole network, and its source."""
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


def _published_file(published: Mapping[str, str | None]) -> Path:
    """The file of the weights that timm declares for a network: from a cache, or downloaded."""
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
