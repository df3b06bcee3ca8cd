"""Unit length."""

from __future__ import annotations

import torch
from torch import Tensor


def l2(vectors: Tensor) -> Tensor:
    """Rows ``(N, D)`` at unit length; a row of zeros stays a row of zeros.

    Rows are scaled by their largest element first, so that neither huge nor tiny ones overflow or vanish in the square.
    """
    largest = vectors.abs().amax(dim=1, keepdim=True) if vectors.shape[1] else vectors.new_ones(len(vectors), 1)
    scaled = vectors / largest.where(largest > 0, torch.ones_like(largest))
    length = scaled.norm(dim=1, keepdim=True)
    normalised: Tensor = scaled / length.where(length > 0, torch.ones_like(length))
    return normalised
