"""PyTorch's antialiased resize of bytes as products of matrices, for programs that are traced."""

from __future__ import annotations

import torch
from torch import Tensor

#: PyTorch's weights of bytes are whole numbers below this, over a power of two of at most so many bits.
WEIGHT_LIMIT, WEIGHT_BITS = 1 << 15, 22


def filter_weights(begin: Tensor, stop: Tensor, size: Tensor, first: Tensor, canvas: int, length: int) -> Tensor:
    """What each pixel along one side of a photo adds to each place along the same side of a canvas.

    The weights are those of :func:`objemb.ops.images.resize`: a triangle as wide as two pixels of the source, or of the
    result where that is smaller, rounded to PyTorch's 16-bit numbers.

    Args:
        begin: float64 ``(M, 1)``, whole numbers: the first pixel of each part of the side.
        stop: float64 ``(M, 1)``, whole numbers: one behind the last.
        size: float64 ``(M, 1)``, whole numbers: places that the part is resized to.
        first: float64 ``(M, 1)``, whole numbers: the first of these places.
        canvas: Places in all; those that the part does not fill have weights of zero.
        length: Pixels of the side.

    Returns:
        float32 ``(M, canvas, length)``.
    """
    scale = (stop - begin) / size
    places = torch.arange(canvas, device=begin.device)[None] - first
    centres = begin + scale * (places + 0.5)
    pixels = torch.arange(length, device=begin.device) + 0.5
    distances = (pixels - centres[:, :, None]).abs() / scale.clamp(min=1.0)[:, :, None]
    cut = (pixels > begin[:, :, None]) & (pixels < stop[:, :, None])
    cut = cut & ((places >= 0) & (places < size))[:, :, None]
    weights = torch.where(cut, (1 - distances).clamp(min=0), 0.0)
    weights = weights / weights.sum(dim=2, keepdim=True).clamp(min=1e-6)
    largest = weights.amax(dim=(1, 2), keepdim=True).clamp(min=1e-6)
    steps = 2.0 ** ((WEIGHT_LIMIT - 0.5) / largest).log2().floor().clamp(max=WEIGHT_BITS)
    return ((weights * steps + 0.5).floor() / steps).float()


def resized_parts(photo: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Parts of a photo on canvases, rounded to bytes after each side as PyTorch does.

    Args:
        photo: uint8 ``(H, W, 3)``.
        rows: float32 ``(M, h, H)``, see :func:`filter_weights`.
        columns: float32 ``(M, w, W)``.

    Returns:
        float32 ``(M, 3, h, w)``, whole numbers from 0 to 255; 0 where a part does not fill its canvas.
    """
    height, width = photo.shape[:2]
    flat = photo.permute(2, 0, 1).reshape(3 * height, width).float()
    across = (flat @ columns.reshape(-1, width).T).reshape(3, height, -1, columns.shape[1]).permute(2, 0, 1, 3)
    return _rounded(rows[:, None] @ _rounded(across))


def _rounded(pixels: Tensor) -> Tensor:
    """To whole numbers, halves up."""
    return (pixels + 0.5).floor().clamp(0, 255)
