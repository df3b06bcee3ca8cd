"""Receptive fields of the cells of a network's map, computed from the arithmetic of its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten


class Place(NamedTuple):
    """The receptive field of the first cell of a map along one axis, in input pixels.

    Attributes:
        centre: Centre of the receptive field; that of the first pixel is 0.5.
        stride: Distance to the next cell.
        side: Side of the receptive field.
    """

    centre: float
    stride: float
    side: float = 1.0


def offset(network: Callable[[Tensor], Tensor], stride: int, side: int) -> float:
    """:func:`offsets` for a network with a single map of this stride."""
    return offsets(lambda pixels: {stride: network(pixels)}, side)[stride]


def receptive_side(network: Callable[[Tensor], Tensor], stride: int, side: int) -> float:
    """Side of a cell's receptive field in input pixels, from kernels, strides and dilations only.

    Global operations, such as the mean of a squeeze-and-excitation block, are ignored.

    Args:
        network: Computes a map from images ``(1, 3, h, w)``; on "meta" tensors.
        stride: Stride of the map.
        side: An input side that the network accepts.

    Returns:
        The side; the stride itself if the layers do not determine it.
    """
    seen = _seen(lambda pixels: {stride: network(pixels)}, side)[stride]
    return float(stride) if seen is None or seen[0].stride != stride else seen[0].side


def offsets(network: Callable[[Tensor], Mapping[int, Tensor]], side: int) -> dict[int, float]:
    """Position of the outer edge of the first cell of each map, in input pixels: its centre minus half a stride.

    The centre of a receptive field moves with each convolution and pooling by ``(k - 1) / 2 - padding`` of its cells
    (Araujo, Norris and Sim, "Computing receptive fields of convolutional neural networks", Distill 2019). With kernels
    of 2 without padding (VGG), or patches of an image (transformers, ConvNeXt), the edge is at 0; with kernels of 3 and
    padding of 1 (ResNet, MobileNet), the first cell is centred on the first pixel, and its edge is at
    ``(1 - stride) / 2``.

    Args:
        network: Computes maps, by stride, from images ``(1, 3, h, w)``; on "meta" tensors, see
            :func:`objemb.backbones._probe.meta_copy`.
        side: An input side that the network accepts. For networks whose padding depends on the input size (those ported
            from TensorFlow) the result holds for this size only.

    Returns:
        Offsets by stride; 0, the edge of the image, if the layers do not determine it (patches merged by reshaping).
    """
    return {stride: _edge(of_map, stride) for stride, of_map in _seen(network, side).items()}


#: Receptive field (vertical, horizontal).
_Pair = tuple[Place, Place]


def _seen(network: Callable[[Tensor], Mapping[int, Tensor]], side: int) -> dict[int, _Pair | None]:
    """Receptive fields of the first cells of maps, by stride."""
    # in inference mode, layers would not be dispatched as the operations that are known here
    with torch.inference_mode(False), torch.no_grad():
        pixels = torch.empty(1, 3, side, side, device="meta")
        with _Places(pixels) as places:
            return {stride: places.of(made) for stride, made in network(pixels).items()}


def _edge(seen: _Pair | None, stride: int) -> float:
    if seen is None or seen[0] != seen[1] or seen[0].stride != stride:
        return 0.0
    return seen[0].centre - stride / 2


class _Places(TorchDispatchMode):
    """Tracks receptive fields through all operations: layers change them, all other operations keep them."""

    def __init__(self, pixels: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch has no type for it
        self._places: dict[int, _Pair] = {id(pixels): (Place(0.5, 1.0), Place(0.5, 1.0))}
        self._alive: list[Tensor] = [pixels]  # keeps tensors alive, since ids of freed ones may be reused

    def of(self, tensor: Tensor) -> _Pair | None:
        """Receptive field of the first cell, or None for a tensor that does not depend on the image."""
        return self._places.get(id(tensor))

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: Sequence[object] = (), kwargs: Mapping[str, object] | None = None
    ) -> object:
        given = dict(kwargs or {})
        made = func(*args, **given)
        seen = [pair for pair in map(self.of, _tensors([args, given])) if pair is not None]
        if seen:
            moved = MOVES.get(func.overloadpacket, _stays)(_joined(seen), _by_name(func, args, given))
            for tensor in _tensors(made):
                self._alive.append(tensor)
                self._places[id(tensor)] = moved
        return made


def _joined(seen: Sequence[_Pair]) -> _Pair:
    """Mean centre and largest field of branches with different fields (such as the pooling shortcut of ResNet-D);
    coarser inputs, such as the level above in a pyramid, are ignored."""
    y, x = map(_mean, zip(*seen, strict=True))
    return y, x


def _mean(places: Sequence[Place]) -> Place:
    stride = min(place.stride for place in places)
    joined = [place for place in places if place.stride == stride]
    centre = sum(place.centre for place in joined) / len(joined)
    return Place(centre, stride, max(place.side for place in joined))


def _stays(seen: _Pair, call: Mapping[str, object]) -> _Pair:
    return seen


def _convolved(seen: _Pair, call: Mapping[str, Any]) -> _Pair:
    if call["transposed"]:  # of no stride that a map could have
        return Place(0.0, 0.0), Place(0.0, 0.0)
    return _slid(seen, call["weight"].shape[2:], call["stride"], call["padding"], call["dilation"])


def _pooled(seen: _Pair, call: Mapping[str, object]) -> _Pair:
    kernel = call["kernel_size"]
    return _slid(seen, kernel, call.get("stride") or kernel, call.get("padding", 0), call.get("dilation", 1))


def _padded(seen: _Pair, call: Mapping[str, Any]) -> _Pair:
    """Padding, which is listed as (before, after) from the last axis on."""
    added = list(call.get("pad", call.get("padding")))
    left, top = added[0], added[2] if len(added) > 2 else 0
    (y, x) = seen
    down, across = y.centre - top * y.stride, x.centre - left * x.stride
    return y._replace(centre=down), x._replace(centre=across)


def _slid(seen: _Pair, kernel: Any, stride: object, padding: object, dilation: object) -> _Pair:
    """A sliding window over the cells: a convolution or pooling."""
    y, x = (
        Place(
            place.centre + place.stride * (d * (k - 1) / 2 - p),
            place.stride * s,
            place.side + place.stride * d * (k - 1),
        )
        for place, k, s, p, d in zip(seen, *map(_both, (kernel, stride, padding, dilation)), strict=True)
    )
    return y, x


#: Effects on receptive fields of the operations that are not pointwise.
MOVES: dict[object, Callable[[_Pair, Mapping[str, object]], _Pair]] = {
    aten.convolution: _convolved,
    aten.max_pool2d_with_indices: _pooled,
    aten.avg_pool2d: _pooled,
    aten.constant_pad_nd: _padded,
    aten.reflection_pad2d: _padded,
    aten.replication_pad2d: _padded,
}


def _both(value: Any) -> tuple[int, int]:
    """(vertical, horizontal) from a pair or a single number."""
    numbers = list(value) if isinstance(value, Sequence) else [value]
    return numbers[0], numbers[-1]


def _by_name(func: OpOverload, args: Sequence[object], given: Mapping[str, object]) -> dict[str, object]:
    """The arguments of a call by their names."""
    names = [argument.name for argument in func._schema.arguments]
    return {**dict(zip(names, args, strict=False)), **given}


def _tensors(values: object) -> Iterator[Tensor]:
    return (value for value in tree_leaves(values) if isinstance(value, Tensor))
