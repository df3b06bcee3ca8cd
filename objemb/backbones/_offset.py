"""Where the cells of a network's map look, from the arithmetic of its own layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten


class Place(NamedTuple):
    """What the first cell of a map looks at along one side, in input pixels.

    Attributes:
        centre: The middle of it; that of the first pixel is 0.5.
        stride: Pixels to the next cell.
        side: Of the receptive field, the pixels that it depends on.
    """

    centre: float
    stride: float
    side: float = 1.0


def offset(network: Callable[[Tensor], Tensor], stride: int, side: int) -> float:
    """As :func:`offsets`, of a network that makes one map, of a stride."""
    return offsets(lambda pixels: {stride: network(pixels)}, side)[stride]


def receptive_side(network: Callable[[Tensor], Tensor], stride: int, side: int) -> float:
    """Side of the square of input pixels that a cell of a map depends on, by kernels, strides and dilations alone.

    What looks at the whole image, such as the mean of a squeeze-and-excitation block, does not count.

    Args:
        network: Makes a map of images ``(1, 3, h, w)``; of "meta" tensors.
        stride: Of the map.
        side: An input side that it accepts.

    Returns:
        The stride, a cell without anything around it, where the layers do not explain the map.
    """
    seen = _seen(lambda pixels: {stride: network(pixels)}, side)[stride]
    return float(stride) if seen is None or seen[0].stride != stride else seen[0].side


def offsets(network: Callable[[Tensor], Mapping[int, Tensor]], side: int) -> dict[int, float]:
    """Where the outer edge of the first cell of a map lies, in input pixels: its centre less half a stride.

    The centre of a receptive field moves with each convolution and pooling by ``(k - 1) / 2 - padding`` of its cells
    (Araujo, Norris and Sim, "Computing receptive fields of convolutional neural networks", Distill 2019). With kernels
    of 2 that do not pad (VGG), or patches of an image (transformers, ConvNeXt), the first cell lies at 0; with kernels
    of 3 that pad by 1 (ResNet, MobileNet), it looks around the first pixel, and its edge lies at ``(1 - stride) / 2``.

    Args:
        network: What makes maps, by stride, of images ``(1, 3, h, w)``; of "meta" tensors, see
            :func:`objemb.backbones._probe.meta_copy`.
        side: An input side that it accepts. Networks that pad depending on the size of the input (those that come from
            TensorFlow) are right at this size only.

    Returns:
        By stride; 0, the edge of the image, where the layers do not explain the stride (patches that are merged by
        reshaping).
    """
    return {stride: _edge(of_map, stride) for stride, of_map in _seen(network, side).items()}


#: Down and across.
_Pair = tuple[Place, Place]


def _seen(network: Callable[[Tensor], Mapping[int, Tensor]], side: int) -> dict[int, _Pair | None]:
    """What the first cells of maps look at, by stride."""
    # where inference mode is on, layers would not come as the operations that are known here
    with torch.inference_mode(False), torch.no_grad():
        pixels = torch.empty(1, 3, side, side, device="meta")
        with _Places(pixels) as places:
            return {stride: places.of(made) for stride, made in network(pixels).items()}


def _edge(seen: _Pair | None, stride: int) -> float:
    if seen is None or seen[0] != seen[1] or seen[0].stride != stride:
        return 0.0
    return seen[0].centre - stride / 2


class _Places(TorchDispatchMode):
    """Follows the places of cells through all operations: layers move them, everything else leaves them alone."""

    def __init__(self, pixels: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._places: dict[int, _Pair] = {id(pixels): (Place(0.5, 1.0), Place(0.5, 1.0))}
        self._alive: list[Tensor] = [pixels]  # what is gone could leave its id to another tensor

    def of(self, tensor: Tensor) -> _Pair | None:
        """Places of the first cell, or None for what was not computed from the image."""
        return self._places.get(id(tensor))

    def __torch_dispatch__(
        self, func: Any, types: object, args: Sequence[object] = (), kwargs: Mapping[str, object] | None = None
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
    """The mean of branches that look at different places (a shortcut that pools, in ResNet-D), and their largest field;
    what comes from a coarser map, such as the level above in a pyramid, does not count."""
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
    """Padding is listed from the last side on, before and behind."""
    added = list(call.get("pad", call.get("padding")))
    left, top = added[0], added[2] if len(added) > 2 else 0
    (y, x) = seen
    down, across = y.centre - top * y.stride, x.centre - left * x.stride
    return y._replace(centre=down), x._replace(centre=across)


def _slid(seen: _Pair, kernel: Any, stride: object, padding: object, dilation: object) -> _Pair:
    """A window over the cells: its middle, in steps of its stride."""
    y, x = (
        Place(
            place.centre + place.stride * (d * (k - 1) / 2 - p),
            place.stride * s,
            place.side + place.stride * d * (k - 1),
        )
        for place, k, s, p, d in zip(seen, *map(_both, (kernel, stride, padding, dilation)), strict=True)
    )
    return y, x


#: What operations other than those on single cells do to places.
MOVES: dict[object, Callable[[_Pair, Mapping[str, object]], _Pair]] = {
    aten.convolution: _convolved,
    aten.max_pool2d_with_indices: _pooled,
    aten.avg_pool2d: _pooled,
    aten.constant_pad_nd: _padded,
    aten.reflection_pad2d: _padded,
    aten.replication_pad2d: _padded,
}


def _both(value: Any) -> tuple[int, int]:
    """Down and across, where one number may stand for both."""
    numbers = list(value) if isinstance(value, Sequence) else [value]
    return numbers[0], numbers[-1]


def _by_name(func: Any, args: Sequence[object], given: Mapping[str, object]) -> dict[str, object]:
    """The arguments of a call by their names."""
    names = [argument.name for argument in func._schema.arguments]
    return {**dict(zip(names, args, strict=False)), **given}


def _tensors(values: object) -> Iterator[Tensor]:
    return (value for value in tree_leaves(values) if isinstance(value, Tensor))
