"""PyTorch's and Pillow's antialiased resize as matrix products, for programs that are traced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rounding:
    """How a resize rounds.

    Attributes:
        limit: Weights are integers below this, divided by a power of two, and results are bytes; None for neither.
        dtype: Of the sums.
    """

    limit: int | None
    dtype: torch.dtype


#: Weights that are integers are divided by a power of two with at most this exponent.
WEIGHT_BITS = 22
#: PyTorch's resize of bytes.
BYTES = Rounding(1 << 15, torch.float32)
#: Pillow's, whose weights, up to 1, always have that exponent. Sums in float64, which take twice the time, are as exact
#: as its integers.
PILLOW = Rounding((1 << WEIGHT_BITS) + 1, torch.float64)
#: PyTorch's resize of floating-point numbers.
FLOATS = Rounding(None, torch.float32)
#: Number of pixels of a photo that are resized at a time, but at least one row.
AT_A_TIME = 1 << 22
#: More blocks than can be: a tracer would put the limit beyond 64 bits, where ONNX has no number.
MAX_BLOCKS = 1 << 40


def resized_parts(
    photo: Tensor,
    begin: Tensor,
    stop: Tensor,
    sizes: Tensor,
    first: Tensor,
    canvas: tuple[int, int],
    rounding: Rounding = BYTES,
) -> Tensor:
    """Resize parts of a photo onto canvases of one size, with rounding to bytes after each axis, if at all.

    A loop reads the pixels of one part after the other, some rows at a time, so that time and memory do not depend on
    the rest of the photo, and memory does not depend on the size of the parts. Positions and sizes are integers in
    float64 ``(M, 2)``, vertical and horizontal, M at least 1.

    Args:
        photo: uint8 ``(H, W, 3)``; float32 where nothing is rounded.
        begin: The first pixel of each part.
        stop: The end of each part, exclusive.
        sizes: The size that each part is resized to.
        first: The position of the resized part on its canvas.
        canvas: Height and width of the canvases.
        rounding: Of weights and results.

    Returns:
        float32 ``(M, 3, height, width)``, integers from 0 to 255 if rounded; 0 outside of the resized part.
    """
    limit, dtype = rounding.limit, rounding.dtype
    blocks = photo.shape[0] // _at_a_time(photo) + 2  # two at least: a tracer takes an axis of one for a constant
    starts = torch.arange(blocks, device=photo.device) * _at_a_time(photo)
    needed = (starts < stop[:, :1] - begin[:, :1]).nonzero()
    torch._check(needed.shape[0] <= MAX_BLOCKS)
    owners, starts = needed[:, 0], starts[needed[:, 1]]
    count = torch.ones_like(owners).sum()
    parts = torch.cat([begin, stop], dim=1).long()

    def is_left(number: Tensor, _: Tensor, count: Tensor, *__: Tensor) -> Tensor:
        return number < count

    def add_block(
        number: Tensor,
        resized: Tensor,
        _: Tensor,
        photo: Tensor,
        owners: Tensor,
        starts: Tensor,
        parts: Tensor,
        sizes: Tensor,
        first: Tensor,
    ) -> tuple[Tensor, Tensor]:
        (height, width), rows = photo.shape[:2], _at_a_time(photo)
        owner, start = owners[number[None]], starts[number[None]][0]
        top, left, bottom, right = parts[owner][0].unbind()
        size, corner = sizes[owner][0], first[owner][0]
        y = _slice(top + start, torch.minimum(top + start + rows, bottom), height)
        block = photo[y, _slice(left, right, width)].permute(2, 0, 1).to(dtype)
        across = block @ _weights(block.shape[2], size[1], corner[1], canvas[1], limit).to(dtype)
        across = across if limit is None else _rounded(across)
        down = _weights(cast(int, (bottom - top).item()), size[0], corner[0], canvas[0], limit).to(dtype)
        down = down.index_select(0, start + torch.arange(block.shape[1], device=photo.device)).T
        return number + 1, resized.index_put((owner,), (down @ across)[None], accumulate=True)

    state = torch.zeros_like(count), torch.zeros((begin.shape[0], 3, *canvas), dtype=dtype, device=photo.device)
    others = count, photo, owners, starts, parts, sizes, first
    if torch.compiler.is_compiling():
        # the operator itself, whose functions get all that they read: the function around it would find that out by
        # compiling them first, which takes as long as the rest of a small network
        state = torch.ops.higher_order.while_loop(is_left, add_block, state, others)
    else:
        while is_left(*state, *others):
            state = add_block(*state, *others)
    return (state[1] if limit is None else _rounded(state[1])).float()


def _at_a_time(photo: Tensor) -> int:
    """Number of rows of a photo that are resized at a time."""
    return cast(int, torch.sym_max(1, AT_A_TIME // photo.shape[1]))


def _weights(length: int, size: Tensor, first: Tensor, canvas: int, limit: int | None) -> Tensor:
    """Weights of the pixels along one axis of a part for each position along the same axis of its canvas.

    They are those of :func:`objemb.ops.images.resize`: a triangle that spans two pixels of the part, or of the result
    if these are larger, rounded to integers below ``limit``, divided by a power of two, if there is one.

    Args:
        length: Number of pixels of the part.
        size: float64 ``()``: number of positions that it is resized to.
        first: float64 ``()``: the first of these positions.
        canvas: Total number of positions; weights are zero outside of the resized part.
        limit: See :class:`Rounding`.

    Returns:
        float64 ``(length, canvas)``.
    """
    scale = length / size
    places = torch.arange(canvas, dtype=torch.float64, device=size.device) - first
    pixels = torch.arange(length, dtype=torch.float64, device=size.device)
    distances = (pixels + 0.5)[:, None] - scale * (places + 0.5)
    filled = (places >= 0) & (places < size)
    weights = (1 - distances.abs() / scale.clamp(min=1.0)).clamp(min=0) * filled
    weights = weights / weights.sum(dim=0).clamp(min=1e-6)
    if limit is None:
        return weights
    largest = weights.amax(dim=(0, 1)).clamp(min=1e-6)
    steps = 2.0 ** ((limit - 0.5) / largest).log2().floor().clamp(max=WEIGHT_BITS)
    return (weights * steps + 0.5).floor() / steps


def _slice(first: Tensor, last: Tensor, length: int) -> slice:
    """A slice of an axis of that length, with bounds that a tracer knows to be inside."""
    ends = first.item(), last.item()
    for end in ends:
        torch._check(end >= 0)
        torch._check(end <= length)
    return slice(*ends)


def _rounded(pixels: Tensor) -> Tensor:
    """Round to integers, halves up, and clip to the range of bytes."""
    return (pixels + 0.5).floor().clamp(0, 255)
