"""Means of vectors with their neighbours, for query expansion and database augmentation."""

from __future__ import annotations

import numpy as np

from objemb.types import Float32Array


def mean_with_neighbours(
    vectors: Float32Array,
    neighbours: Float32Array,
    weights: Float32Array,
    *,
    normalise: bool,
) -> Float32Array:
    """``(v + sum_j w_j n_j) / (1 + sum_j w_j)``: the weighted mean of a vector, with weight 1, and its neighbours.

    Args:
        vectors: float32 ``(N, D)``.
        neighbours: float32 ``(N, k, D)``, or ``(1, k, D)`` for the same ones in all rows.
        weights: float32 ``(N, k)``, not negative; 0 leaves a neighbour out.
        normalise: Whether to normalise the means; zero vectors stay zero.

    Returns:
        float32 ``(N, D)``.
    """
    mixed = vectors + (weights[:, None, :] @ neighbours)[:, 0]
    if not normalise:
        means: Float32Array = mixed / (1 + weights.sum(axis=1, keepdims=True))
        return means
    return unit_rows(mixed)


def unit_rows(vectors: Float32Array) -> Float32Array:
    """Rows ``(N, D)`` at unit length, as :func:`objemb.ops.tensors.l2`; a row of zeros stays zero."""
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0)
    scaled = vectors / np.where(largest > 0, largest, 1)
    lengths = np.linalg.norm(scaled, axis=1, keepdims=True)
    return (scaled / np.where(lengths > 0, lengths, 1)).astype(np.float32, copy=False)


def similarity_weights(similarities: Float32Array, alpha: float) -> Float32Array:
    """``max(0, s) ^ alpha`` (alpha-QE: Radenovic, Tolias, Chum, Fine-tuning CNN image retrieval, TPAMI 2018, sec. 4).

    Negative similarities have the weight 0: for most ``alpha`` their power is not defined, and for odd ones a negative
    weight would push a vector away from one that is merely dissimilar. With ``alpha`` 0, all weights are 1, even those
    of negative similarities: the average query expansion of Chum et al., Total recall, ICCV 2007. A similarity of -inf
    means a missing neighbour, whose weight is 0.
    """
    weights = np.maximum(similarities, 0) ** np.float32(alpha)
    return np.where(np.isneginf(similarities), 0, weights).astype(np.float32)


def rank_weights(similarities: Float32Array) -> Float32Array:
    """``1, (k-1)/k, ..., 1/k`` by rank, for neighbours ``(N, k)`` in descending order; 0 for missing ones (-inf).

    Source: Gordo et al., End-to-end learning of deep visual representations for image retrieval, IJCV 2017, as in the
    code that comes with it.
    """
    count = similarities.shape[1]
    weights = np.arange(count, 0, -1, dtype=np.float32) / max(1, count)
    return np.where(np.isneginf(similarities), 0, weights).astype(np.float32)
