"""Output shapes of a network, determined on "meta" tensors without computing values."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import TypeVar

import torch
from torch import nn

from objemb import checks

#: Pixels that the probe adds to a side: a multiple of every stride that convolutional networks use.
SPAN = 960

#: Layers that neither change a shape nor refuse one in evaluation mode.
POINTWISE = (nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.GELU)

Network = TypeVar("Network", bound=nn.Module)


def meta_copy(network: Network) -> Network:
    """A copy with shapes but no values ("meta" tensors), without copying the memory of the original.

    Its norms and activations do nothing: on "meta" tensors PyTorch takes a batch norm apart in Python, which would take
    most of the time in which a network is built.
    """
    memo: dict[int, object] = {id(p): nn.Parameter(p.to("meta"), p.requires_grad) for p in network.parameters()}
    memo.update((id(b), b.to("meta")) for b in network.buffers())
    memo.update((id(m), nn.Identity()) for m in network.modules() if isinstance(m, POINTWISE) and not m.training)
    # networks extracted by torchvision lose their mode when copied
    return copy.deepcopy(network, memo).train(network.training)


def map_shape(empty: nn.Module, height: int, width: int) -> tuple[int, ...]:
    """Output shape of a :func:`meta_copy` network for one image."""
    with torch.no_grad():
        return tuple(empty(torch.empty(1, 3, height, width, device="meta")).shape)


def map_shape_or_none(empty: nn.Module, height: int, width: int) -> tuple[int, ...] | None:
    """:func:`map_shape`, or None for an input size that the network rejects with any error."""
    try:
        return map_shape(empty, height, width)
    except Exception:
        return None


def smallest_side(empty: nn.Module, stride: int, multiple: int, fits: int) -> int:
    """The smallest input side with a map of at least one cell: ``stride`` if that suffices, else found by bisection.

    Args:
        empty: A :func:`meta_copy` network.
        stride: The smallest side to consider.
        multiple: Sides must be a multiple of this.
        fits: A side that is known to be accepted.
    """
    low, high = -(-stride // multiple), -(-fits // multiple)
    middle = low  # nearly all networks accept the smallest
    while low < high:
        shape = map_shape_or_none(empty, middle * multiple, middle * multiple)
        low, high = (low, middle) if shape and min(shape[2:]) > 0 else (middle + 1, high)
        middle = (low + high) // 2
    return low * multiple


def surplus(empty: nn.Module, stride: int, multiple: int, fits: int) -> int:
    """Number of pixels that padding adds to a side, see :meth:`objemb.backbones.base.Backbone.map_size`.

    It is determined from the first side at which the map grows by one cell.

    Args:
        empty: A :func:`meta_copy` network.
        stride: Stride of its map.
        multiple: Sides must be a multiple of this. If this is a multiple of the stride, or the only side, nothing is
            rounded, and one side suffices.
        fits: A side that is known to be accepted.
    """
    side = -(-fits // multiple) * multiple
    cells = map_shape(empty, side, side)[2]
    if multiple >= stride:
        return cells * stride - side
    low, high = 0, -(-stride // multiple)
    while high - low > 1:  # after ``high`` multiples more there is another cell, after ``low`` there is not
        middle = (low + high) // 2
        larger = side + middle * multiple
        low, high = (low, middle) if map_shape(empty, larger, larger)[2] > cells else (middle, high)
    return (cells + 1) * stride - side - high * multiple


def channels_and_stride(name: str, network: nn.Module, side: int) -> tuple[int, int]:
    """Channels and stride of a convolutional network's map.

    For any kernel, padding and rounding, the output of a layer of stride ``s`` grows by exactly one cell per ``s``
    pixels of input, so that of a chain of layers by exactly ``n`` cells per ``n`` times the product of their strides.
    Growing the input by a multiple of that product therefore gives the stride exactly, which a single size cannot.

    Args:
        name: Name of the network in errors.
        network: Takes ``(1, 3, h, w)``.
        side: An input side that is large enough for it.

    Raises:
        ValueError: The output is not a map whose size grows in proportion to that of the image.
    """
    empty = meta_copy(network)
    small, large = map_shape(empty, side, side), map_shape(empty, side + SPAN, side + 2 * SPAN)
    if len(small) != 4:
        raise ValueError(f"{name}: expected a feature map (1, C, h, w), found shape {small}")
    down, across = large[2] - small[2], large[3] - small[3]
    if small[1] != large[1] or down <= 0 or across != 2 * down or SPAN % down:
        raise ValueError(
            f"{name}: expected a feature map that grows with the image, "
            f"found {small} for side {side} and {large} for {side + SPAN} x {side + 2 * SPAN}"
        )
    return int(checks.positive(f"{name}: channels", small[1])), SPAN // down


def strides_of_layers(empty: nn.Module, layers: Collection[str], side: int) -> dict[str, int]:
    """Strides of the layers whose outputs are maps that grow with the image, in the order of execution.

    Args:
        empty: A :func:`meta_copy` network.
        layers: Names of modules in it.
        side: An input side that is large enough for it.
    """
    seen: list[tuple[str, int]] = []

    def watch(name: str) -> object:
        def note(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, torch.Tensor) and output.ndim == 4:
                seen.append((name, output.shape[2]))

        return note

    handles = [module.register_forward_hook(watch(name)) for name, module in empty.named_modules() if name in layers]
    map_shape(empty, side, side)
    small = dict(seen)
    map_shape(empty, side + SPAN, side + SPAN)
    for handle in handles:
        handle.remove()
    grown = {name: cells - small[name] for name, cells in seen[len(seen) // 2 :]}
    return {name: SPAN // cells for name, cells in grown.items() if cells > 0}
