"""PyTorch's antialiased resize of bytes as matrix products, for programs that are traced."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

#: PyTorch's weights for bytes are integers below the first number, divided by a power of two with at most the second as
#: exponent.
WEIGHT_LIMIT, WEIGHT_BITS = 1 << 15, 22
#: Number of pixels of a photo that are resized at a time, but at least one row.
AT_A_TIME = 1 << 22
#: More blocks than can be: a tracer would put the limit beyond 64 bits, where ONNX has no number.
MAX_BLOCKS = 1 << 40


def resized_parts(
    photo: Tensor, begin: Tensor, stop: Tensor, sizes: Tensor, first: Tensor, canvas: tuple[int, int]
) -> Tensor:
    """Resize parts of a photo onto canvases of one size, with rounding to bytes after each axis, as in PyTorch.

    A loop reads the pixels of one part after the other, some rows at a time, so that time and memory do not depend on
    the rest of the photo, and memory does not depend on the size of the parts. Positions and sizes are integers in
    float64 ``(M, 2)``, vertical and horizontal, M at least 1.

    Args:
        photo: uint8 ``(H, W, 3)``.
        begin: The first pixel of each part.
        stop: The end of each part, exclusive.
        sizes: The size that each part is resized to.
        first: The position of the resized part on its canvas.
        canvas: Height and width of the canvases.

    Returns:
        float32 ``(M, 3, height, width)``, integers from 0 to 255; 0 outside of the resized part.
    """
    height, width = photo.shape[:2]
    rows = cast(int, torch.sym_max(1, AT_A_TIME // width))
    blocks = height // rows + 2  # two at least: a tracer takes an axis of one for a constant
    starts = torch.arange(blocks, device=photo.device) * rows
    needed = (starts < stop[:, :1] - begin[:, :1]).nonzero()
    torch._check(needed.shape[0] <= MAX_BLOCKS)
    owners, starts = needed[:, 0], starts[needed[:, 1]]
    count = torch.ones_like(owners).sum()
    parts = torch.cat([begin, stop], dim=1).long()

    def is_left(number: Tensor, _: Tensor) -> Tensor:
        return number < count

    def add_block(number: Tensor, resized: Tensor) -> tuple[Tensor, Tensor]:
        owner, start = owners[number[None]], starts[number[None]][0]
        top, left, bottom, right = parts[owner][0].unbind()
        size, corner = sizes[owner][0], first[owner][0]
        y = _slice(top + start, torch.minimum(top + start + rows, bottom), height)
        block = photo[y, _slice(left, right, width)].permute(2, 0, 1).float()
        across = _rounded(block @ _weights(block.shape[2], size[1], corner[1], canvas[1]).T)
        down = _weights(cast(int, (bottom - top).item()), size[0], corner[0], canvas[0])
        down = down.index_select(1, start + torch.arange(block.shape[1], device=photo.device))
        return number + 1, resized.index_put((owner,), (down @ across)[None], accumulate=True)

    state = torch.zeros_like(count), torch.zeros((begin.shape[0], 3, *canvas), device=photo.device)
    if torch.compiler.is_compiling():
        state = while_loop(is_left, add_block, state)
    else:  # the same, which PyTorch would compile first
        while is_left(*state):
            state = add_block(*state)
    return _rounded(state[1])


def _weights(length: int, size: Tensor, first: Tensor, canvas: int) -> Tensor:
    """Weights of the pixels along one axis of a part for each position along the same axis of its canvas.

    They are those of :func:`objemb.ops.images.resize`: a triangle that spans two pixels of the part, or of the result
    if these are larger, rounded to PyTorch's 16-bit integers.

    Args:
        length: Number of pixels of the part.
        size: float64 ``()``: number of positions that it is resized to.
        first: float64 ``()``: the first of these positions.
        canvas: Total number of positions; weights are zero outside of the resized part.

    Returns:
        float32 ``(canvas, length)``.
    """
    scale = length / size
    places = torch.arange(canvas, dtype=torch.float64, device=size.device) - first
    pixels = torch.arange(length, dtype=torch.float64, device=size.device)
    distances = pixels + 0.5 - scale * (places[:, None] + 0.5)
    filled = ((places >= 0) & (places < size))[:, None]
    weights = (1 - distances.abs() / scale.clamp(min=1.0)).clamp(min=0) * filled
    weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-6)
    largest = weights.amax(dim=(0, 1)).clamp(min=1e-6)
    steps = 2.0 ** ((WEIGHT_LIMIT - 0.5) / largest).log2().floor().clamp(max=WEIGHT_BITS)
    return ((weights * steps + 0.5).floor() / steps).float()


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
