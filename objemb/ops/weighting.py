"""Weights of the cells and channels of feature maps."""

from __future__ import annotations

import torch
from torch import Tensor

from objemb import checks
from objemb.ops.tensors import l2

#: Keeps the weight of a channel that is never active finite; no paper gives its value.
EPSILON = 1e-6


def saliency(features: Tensor) -> Tensor:
    """The sum over channels, normalised over all cells (Jeong et al., "Regional deep feature aggregation", eq. 1).

    Negative sums, from networks that do not end in a ReLU, are replaced by 0.

    Args:
        features: float ``(C, h, w)``.

    Returns:
        float ``(h, w)``, 0 to 1, with squares that sum to 1; zeros if no cell is active.
    """
    total = checks.shape("features", features, (None, None, None)).sum(dim=0).clamp_min(0)
    return l2(total.reshape(1, -1)).reshape(total.shape)


def sparsity_weights(features: Tensor) -> Tensor:
    """``log((C eps + sum_k Q_k) / (eps + Q_c))`` where Q is the share of cells in which a channel is above 0.

    Like an inverse document frequency (Kalantidis et al., "Cross-dimensional weighting", 2016), it is small for
    channels that are active everywhere.

    Args:
        features: float ``(..., C, h, w)``.

    Returns:
        float ``(..., C)``, not negative.
    """
    return rarity((features > 0).to(features.dtype).mean(dim=(-2, -1)))


def rarity(active: Tensor) -> Tensor:
    """The same from the shares Q, float ``(..., C)``, 0 to 1."""
    return ((active + EPSILON).sum(dim=-1, keepdim=True) / (active + EPSILON)).log()


def weighted_mean(maps: Tensor, weights: Tensor | None) -> Tensor:
    """Mean ``(M, C)`` over the cells of maps ``(M, C, h, w)``; 0 where weights ``(M, h, w)`` are all 0."""
    if weights is None:
        return maps.mean(dim=(2, 3))
    flat = weights.flatten(1).to(maps.dtype)
    total = flat.sum(dim=1, keepdim=True)
    shares = flat / total.where(total > 0, torch.ones_like(total))
    return (maps.flatten(2) @ shares[:, :, None]).squeeze(2)
