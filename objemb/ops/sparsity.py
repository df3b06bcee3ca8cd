"""Weights of channels by how rarely they are active (Kalantidis et al., "Cross-dimensional weighting", 2016)."""

from __future__ import annotations

from torch import Tensor

#: Keeps the weight of a channel that is never active finite; no paper gives its value.
EPSILON = 1e-6


def sparsity_weights(features: Tensor) -> Tensor:
    """``log((C eps + sum_k Q_k) / (eps + Q_c))`` where Q is the share of cells in which a channel is above 0.

    An inverse document frequency: a channel that is active everywhere tells little.

    Args:
        features: float ``(..., C, h, w)``.

    Returns:
        float ``(..., C)``, none below 0.
    """
    return rarity((features > 0).to(features.dtype).mean(dim=(-2, -1)))


def rarity(active: Tensor) -> Tensor:
    """The same from the shares Q themselves, float ``(..., C)``, 0 to 1."""
    return ((active + EPSILON).sum(dim=-1, keepdim=True) / (active + EPSILON)).log()
