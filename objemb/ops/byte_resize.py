"""PyTorch's and Pillow's antialiased resize as matrix products, for programs that are traced.

Both resize bytes by whole numbers: weights are integers divided by a power of two, the pixels of a row are summed and
rounded to bytes, then those of a column. Here the sums are in float32, and exact all the same, in every runtime: each
weight is split into two parts of few bits, whose sums are integers below 2 ** 24. OpenVINO has no float64, and
whole numbers of 32 bits, which it adds and multiplies exactly, but divides and compares as float32. So weights are
computed in float32 and corrected by their remainders.
"""

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
    """

    limit: int | None


#: Weights that are integers are divided by a power of two with at most this exponent.
WEIGHT_BITS = 22
#: PyTorch's resize of bytes.
BYTES = Rounding(1 << 15)
#: Pillow's, whose weights, up to 1, always have that exponent.
PILLOW = Rounding(1 << WEIGHT_BITS + 1)
#: PyTorch's resize of floating-point numbers.
FLOATS = Rounding(None)
#: Lower bits of a weight, which are summed apart: bytes times the upper bits sum up to less than 2 ** 24, and so do
#: bytes times the lower bits of up to 1,044 pixels, which is a reduction to a 500th.
LOWER_BITS = 6
#: Number of pixels of a photo that are resized at a time, but at least those of one row of the result. With more, more
#: pixels are multiplied by zeros; with fewer, small steps take the time.
AT_A_TIME = 1 << 20
#: Columns of the result are computed in so many bands, each from the columns of the photo that it needs.
BANDS = 8
#: More turns or pixels than can be: a tracer would put the limit beyond 64 bits, where ONNX has no number.
MOST = 1 << 40


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

    A loop makes some rows of one result after the other, from the pixels that these need, so that time and memory do
    not depend on the rest of the photo, but for one copy of it with columns first. Positions and sizes are integers in
    float64 or int64 ``(M, 2)``, vertical and horizontal, M at least 1; a part has at most 32,767 pixels a side.

    Args:
        photo: uint8 ``(H, W, 3)``; float32 where nothing is rounded.
        begin: The first pixel of each part.
        stop: The end of each part, exclusive.
        sizes: The size that each part is resized to.
        first: The position of the resized part on its canvas, which it does not exceed.
        canvas: Height and width of the canvases.
        rounding: Of weights and results.

    Returns:
        float32 ``(M, 3, height, width)``, integers from 0 to 255 if rounded; 0 outside of the resized part.
    """
    device, (height, width) = photo.device, canvas
    begin, stop, sizes, first = (numbers.long() for numbers in (begin, stop, sizes, first))
    rows, blocks = _rows_at_once(stop - begin, sizes, height)
    band = (width + BANDS - 1) // BANDS
    parts = 1 if rounding.limit is None else 2
    tables = _tables(begin, stop, sizes, first, (blocks, rows), (BANDS, band), rounding.limit)
    count = torch.ones_like(tables[0][:, 0]).sum()

    def is_left(number: Tensor, _: Tensor, count: Tensor, *__: Tensor) -> Tensor:
        return number < count

    def add_rows(
        number: Tensor,
        canvases: Tensor,
        _: Tensor,
        photo: Tensor,
        turns: Tensor,
        left: Tensor,
        places_across: Tensor,
        across: Tensor,
        places_down: Tensor,
        down: Tensor,
        units: Tensor,
    ) -> tuple[Tensor, Tensor]:
        turn, (values, rows) = turns.index_select(0, number[None])[0], canvases.shape[1:]
        of = _item(turn[0], 0, units.shape[0] - 1)
        block = _item(turn[1], 0, down.shape[0] - 1)
        top = _item(turn[2], 0, photo.shape[2])
        bottom = _item(turn[3], top + 1, photo.shape[2])
        wide = _item(turn[4], 1, photo.shape[0])
        high, columns = bottom - top, values // 3
        seen = left.select(0, of)[:, None] + torch.arange(wide, device=device)
        pixels = photo[:, :, top:bottom].index_select(0, seen.flatten()).float()
        matrix = _filled(parts * columns * wide, places_across.select(0, of), across.select(0, of))
        sums = matrix.reshape(BANDS, parts * (columns // BANDS), wide) @ pixels.reshape(BANDS, wide, 3 * high)
        sums = _joined(sums.reshape(BANDS, parts, values // BANDS * high), units.select(0, of)[1], 1)
        matrix = _filled(parts * high * rows, places_down.select(0, block), down.select(0, block))
        sums = sums.reshape(1, values, high) @ matrix.reshape(parts, high, rows)
        result = _joined(sums, units.select(0, of)[0], 0)
        return number + 1, canvases.index_put((turn[1:2],), result[None])

    state = torch.zeros_like(count), torch.zeros((begin.shape[0] * blocks, BANDS * band * 3, rows), device=device)
    others = count, photo.permute(1, 2, 0).contiguous(), *tables
    if torch.compiler.is_compiling():
        # the operator itself, whose functions get all that they read: the function around it would find that out by
        # compiling them first, which takes as long as the rest of a small network
        state = torch.ops.higher_order.while_loop(is_left, add_rows, state, others)
    else:
        while is_left(*state, *others):
            state = add_rows(*state, *others)
    canvases = state[1].reshape(-1, BANDS * band, 3 * rows).transpose(1, 2)  # one axis at a time, which is faster
    canvases = canvases.reshape(-1, blocks, 3, rows * BANDS * band).transpose(1, 2)
    return canvases.reshape(-1, 3, blocks * rows, BANDS * band)[:, :, :height, :width]


def _rows_at_once(lengths: Tensor, sizes: Tensor, height: int) -> tuple[int, int]:
    """Number of rows of a canvas that are made at once, and how many times that is, to have ``height`` rows or some
    more."""
    of_row = ((lengths[:, 0].float() / sizes[:, 0].float() + 1) * lengths[:, 1]).amax(dim=0)
    blocks = (of_row * height / AT_A_TIME).ceil().clamp(min=1, max=height)
    return _item((height / blocks).ceil().long(), 1, MOST), _item(blocks.long(), 1, MOST)


def _tables(
    begin: Tensor,
    stop: Tensor,
    sizes: Tensor,
    first: Tensor,
    down: tuple[int, int],
    across: tuple[int, int],
    limit: int | None,
) -> tuple[Tensor, ...]:
    """What the loop of :func:`resized_parts` reads beside the photo.

    Args:
        begin: See :func:`resized_parts`, int64, as the next ones.
        stop: See there.
        sizes: See there.
        first: See there.
        down: The number of blocks of rows of a canvas, and of rows of each.
        across: The number of bands of columns, and of columns of each.
        limit: See :class:`Rounding`.

    Returns:
        int64 ``(turns, 5)``, for each turn of the loop its part, its block among those of all canvases, the first
        row of the photo that it needs, the end of these, and the number of columns that each of its bands needs; int64
        ``(M, bands)``, the first column of the photo that each band needs; for bands, ``(M, weights)`` each, the
        places of weights in their matrices ``(bands, parts * columns, pixels)``, flat, and the weights; for blocks,
        likewise, ``(M * blocks, weights)`` each and ``(parts, pixels, rows)``; and the units of :func:`_weights`.
    """
    device, lengths = begin.device, stop - begin
    (blocks, rows), (bands, band) = down, across
    starts, weights, units = _weights(
        lengths, sizes, first, cast(int, torch.sym_max(blocks * rows, bands * band)), limit
    )
    parts, taps = weights.shape[2], weights.shape[4]

    left, wide, pixels = _needed(starts[:, 1, : bands * band].reshape(-1, bands, band), lengths[:, 1:], taps)
    cells = torch.arange(bands * parts * band, device=device).reshape(bands, parts, band).transpose(0, 1)
    places_across = pixels[:, None] + (cells * wide[..., None, None])[..., None]
    of_columns = weights[:, 1, :, : bands * band]

    of_blocks = lengths[:, :1].expand(-1, blocks).reshape(-1, 1)
    top, high, pixels = _needed(starts[:, 0, : blocks * rows].reshape(-1, 1, rows), of_blocks, taps)
    before = torch.arange(parts, device=device) * (high * rows)
    places_down = pixels * rows + torch.arange(rows, device=device)[:, None] + before[..., None, None]
    of_rows = weights[:, 0, :, : blocks * rows].reshape(-1, parts, blocks, rows, taps).transpose(1, 2).flatten(0, 1)

    turns = (torch.arange(blocks, device=device) * rows < (first + sizes)[:, :1]).nonzero()
    torch._check(turns.shape[0] <= MOST)
    of, block = turns[:, 0], turns[:, 0] * blocks + turns[:, 1]
    above = top.index_select(0, block) + begin[:, :1].index_select(0, of)
    below = above + high.index_select(0, block)
    plan = torch.cat([of[:, None], block[:, None], above, below, wide.index_select(0, of)], dim=1)
    # copies, as no two tensors that a loop reads may share memory
    flat = (table.flatten(1).clone() for table in (places_across, of_columns, places_down, of_rows))
    return plan, left + begin[:, 1:], *flat, units


def _needed(starts: Tensor, lengths: Tensor, taps: int) -> tuple[Tensor, Tensor, Tensor]:
    """What bands of columns, or of rows, of a result need of the pixels of their part.

    Args:
        starts: int64 ``(N, bands, cells)``: the first pixel of each column.
        lengths: int64 ``(N, 1)``: of the part.
        taps: Number of pixels of each column.

    Returns:
        int64 ``(N, bands)``, the first pixel of each band; ``(N, 1)``, the number of pixels of each; and ``(N, bands,
        cells, taps)``, the pixels of each column, from the first one of its band on.
    """
    first = starts.amin(dim=2)
    length = (torch.minimum(starts.amax(dim=2) + taps, lengths) - first).amax(dim=1, keepdim=True)
    first = torch.minimum(first, lengths - length)
    pixels = (starts - first[:, :, None])[..., None] + torch.arange(taps, device=starts.device)
    return first, length, torch.minimum(pixels, length[:, :, None, None] - 1)


def _item(number: Tensor, least: int, most: int) -> int:
    """A number, with bounds that a tracer knows."""
    value = number.item()
    torch._check(value >= least)
    torch._check(value <= most)
    return cast(int, value)


def _weights(
    lengths: Tensor, sizes: Tensor, first: Tensor, side: int, limit: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of the pixels along both axes of each part for the positions along the same axis of its canvas.

    They are those of :func:`objemb.ops.images.resize`: a triangle that spans two pixels of the part, or of the result
    if these are larger, rounded to integers below ``limit``, divided by a power of two, if there is one.

    Args:
        lengths: int64 ``(M, 2)``: number of pixels of the part.
        sizes: int64 ``(M, 2)``: number of positions that it is resized to.
        first: int64 ``(M, 2)``: the first of these positions.
        side: Total number of positions; weights are zero outside of the resized part.
        limit: See :class:`Rounding`.

    Returns:
        int64 ``(M, 2, side)``, the first pixel of each position; float32 ``(M, 2, parts, side, taps)``, the weights of
        that pixel and those after it, in one part, or two that :func:`_joined` joins; and float32 ``(M, 2)``, the
        value of the unit of the lower part.
    """
    device = lengths.device
    lengths, sizes = lengths[..., None], sizes[..., None]
    places = torch.arange(side, device=device) - first[..., None]
    filled = (places >= 0) & (places < sizes)
    places = torch.minimum(places.clamp(min=0), sizes - 1)
    longer = torch.maximum(lengths, sizes)
    taps = _item((longer.float() / sizes.float() * 2 + 3).amax(dim=(0, 1, 2)).long(), 5, MOST)
    # in 2 * sizes-ths of a pixel: where the centres of positions are, and how far they are from those of pixels; the
    # first pixel may be one or two before the first that has a weight
    centres = (2 * places + 1) * lengths
    starts = ((centres - 2 * longer - sizes).float() / (2 * sizes).float()).floor().clamp(min=0).long()
    pixels = torch.arange(taps, device=device)
    distances = ((2 * starts + 1) * sizes - centres).float()[..., None] + (2 * sizes).float()[..., None] * pixels
    weights = ((2 * longer * filled).float()[..., None] - distances.abs()).clamp(min=0)
    weights = weights * (starts[..., None] + pixels < lengths[..., None])
    total = weights.sum(dim=3, keepdim=True).clamp(min=1)
    shares = weights / total
    if limit is None:
        return starts, shares[:, :, None], torch.ones_like(shares[..., 0, 0])
    powers = 2.0 ** torch.arange(WEIGHT_BITS + 1, dtype=torch.float32, device=device)
    fits = shares.amax(dim=(2, 3))[..., None] * powers + 0.5 < limit
    steps = torch.where(fits, powers, 1.0).amax(dim=2)[..., None, None]
    whole = (shares * steps + 0.5).floor()
    # what is left of the exact quotient is less than 2 ** 31, though the products may not be
    weights, total, doubled = weights.long(), total.long(), 2 * steps.long()
    left = weights * doubled + total - 2 * total * whole.long()
    whole = whole + (left - 2 * total >= 0).float() - (left < 0).float()
    units = torch.where(fits, (1 << LOWER_BITS) / powers, 1 << LOWER_BITS).amin(dim=2)
    upper = (whole / (1 << LOWER_BITS)).floor()
    lower = whole / (1 << LOWER_BITS) - upper
    return starts, torch.stack([upper * units[..., None, None], lower], dim=2), units


def _filled(cells: int, places: Tensor, values: Tensor) -> Tensor:
    """float32 ``(cells,)``: the sums of the values of each place."""
    return torch.zeros(cells, device=values.device).index_put((places,), values, accumulate=True)


def _joined(sums: Tensor, unit: Tensor, dim: int) -> Tensor:
    """Sums of pixels times weights, from those with the parts of the weights, along ``dim``; integers, halves rounded
    up, if there are two parts."""
    upper = sums.select(dim, 0)
    return upper if sums.shape[dim] == 1 else (upper + sums.select(dim, 1).floor() * unit + 0.5).floor()
