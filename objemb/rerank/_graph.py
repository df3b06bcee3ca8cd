"""Diffusion on a graph of mutual nearest neighbours.

Source: Iscen, Tolias, Avrithis, Furon, Chum, Efficient diffusion on region manifolds, CVPR 2017.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from objemb.ops.scored_pairs import NO_HIT
from objemb.types import Float32Array, Float64Array, FloatArray, Int64Array

if TYPE_CHECKING:
    from scipy.sparse import csr_array as csr_array


def mutual_affinity(neighbours: Int64Array, similarities: Float32Array, gamma: float) -> csr_array:
    """``a_ij = max(0, x_i . x_j) ^ gamma`` if i is among the neighbours of j and j among those of i, otherwise 0.

    Args:
        neighbours: int64 ``(R, k)`` rows other than the row itself, ``NO_HIT`` for none.
        similarities: float32 ``(R, k)``, ``x_i . x_j``.
        gamma: Exponent, 3 in the paper.

    Returns:
        Sparse float64 ``(R, R)``, symmetric, the diagonal zero.
    """
    sparse = _scipy_sparse()
    count, k = neighbours.shape
    kept = (neighbours != NO_HIT) & (similarities > 0)
    rows = np.repeat(np.arange(count), k).reshape(count, k)[kept]
    values = similarities[kept].astype(np.float64) ** gamma
    directed = sparse.csr_array((values, (rows, neighbours[kept])), shape=(count, count))
    return directed.minimum(directed.T.tocsr()).tocsr()


def laplacian(affinity: csr_array, alpha: float) -> csr_array:
    """``I - alpha S``, ``S = D^-1/2 A D^-1/2`` with D the diagonal of row sums; S is zero for rows without neighbours.

    Positive definite for ``alpha`` below 1.
    """
    sparse = _scipy_sparse()
    degrees = np.asarray(affinity.sum(axis=1)).reshape(-1)
    scale = np.zeros(len(degrees))
    np.divide(1, np.sqrt(degrees), out=scale, where=degrees > 0)
    diagonal = sparse.dia_array((scale[None], [0]), shape=affinity.shape)
    return (sparse.eye_array(len(degrees)) - alpha * (diagonal @ affinity @ diagonal)).tocsr()


def diffuse(system: csr_array, start: Float64Array, iterations: int, tolerance: float) -> Float64Array:
    """``f`` with ``(I - alpha S) f = y``, by conjugate gradient.

    Args:
        system: Sparse ``(R, R)``, from :func:`laplacian`.
        start: y, float64 ``(R,)``.
        iterations: Maximum number of steps; the result of the last one is used even if it has not converged.
        tolerance: Stop when the residual is at most this share of y.
    """
    from scipy.sparse.linalg import cg

    solution, _ = cg(system, start, rtol=tolerance, atol=0.0, maxiter=iterations)
    return np.asarray(solution)


def start_vector(similarities: Float32Array, neighbours: int, gamma: float) -> Float64Array:
    """``y``, the start of the diffusion: a number for each row of the database.

    For every region of the query, its nearest rows are selected; the similarities of selected rows are summed over the
    regions, the largest sums are kept and raised to ``gamma`` (0 if negative).

    Args:
        similarities: float32 ``(R, Q)``, of all rows to the Q regions of a query.
        neighbours: Number of rows selected for each region, and number of sums that are kept.
        gamma: Exponent, that of :func:`mutual_affinity`.

    Returns:
        float64 ``(R,)``, at most ``neighbours`` of which are not 0.
    """
    count = min(neighbours, len(similarities))
    start = np.zeros(len(similarities))
    if not count:
        return start
    named = np.argpartition(-similarities, count - 1, axis=0)[:count]
    sums = np.zeros(len(similarities))
    np.add.at(sums, named, np.take_along_axis(similarities, named, axis=0).astype(np.float64))
    kept = np.argpartition(-sums, count - 1)[:count]
    start[kept] = np.maximum(sums[kept], 0) ** gamma
    return start


def generalised_max_weights(vectors: FloatArray, ridge: float) -> Float64Array:
    """``c = (V V^T + ridge I)^-1 1``: the weight of each region, which is smaller for similar regions.

    Generalised max pooling (Murray, Perronnin, CVPR 2014), in the dual form with which the paper pools regional scores.

    Args:
        vectors: ``(B, n, D)``, the n region vectors of B images.
        ridge: Positive.

    Returns:
        float64 ``(B, n)``.
    """
    vectors = vectors.astype(np.float64)
    gram = vectors @ vectors.transpose(0, 2, 1) + ridge * np.eye(vectors.shape[1])
    return np.asarray(np.linalg.solve(gram, np.ones((*gram.shape[:2], 1)))[..., 0], dtype=np.float64)


def _scipy_sparse() -> ModuleType:
    try:
        import scipy.sparse
    except ImportError as error:
        raise ImportError("diffusion needs SciPy: pip install 'objemb[methods]'") from error
    library: ModuleType = scipy.sparse
    return library
