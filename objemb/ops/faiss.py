"""What faiss computes: clusters of many vectors, and their nearest centres.

For a thousand vectors and 65,536 centres of 128 numbers an exact search takes 0.36 s on one core. An inverted list
structure takes a quarter of that (and misses hardly any), a graph a third, but they need 6 and 9 s to build whenever a
model is opened: features of one photo take longer to compute than what they would save.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from objemb import checks
from objemb.types import Float32Array, Int64Array

if TYPE_CHECKING:
    from faiss import IndexIVF as IndexIVF
    from faiss import IndexIVFPQ as IndexIVFPQ
    from faiss import SearchParameters as SearchParameters


def faiss_library(what: str) -> ModuleType:
    """The library.

    Args:
        what: What needs it, for the message.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError(f"{what} needs FAISS: pip install 'objemb[ann]'") from error
    library: ModuleType = faiss
    return library


def clusters(
    vectors: Float32Array,
    count: int,
    *,
    iterations: int,
    seed: int,
    on_round: Callable[[int, int], None] = lambda done, of: None,
) -> Float32Array:
    """Centres of clusters by Lloyd's k-means, begun at random vectors; for as many centres as :mod:`objemb.ops.kmeans`
    is too slow for.

    A cluster that loses all its vectors takes half of those of a large one, as faiss has it.

    Args:
        vectors: float32 ``(N, D)``; how many is up to the caller.
        count: Number of clusters k.
        iterations: Rounds of assignment and update; fewer where nothing changes any more.
        seed: Of the choice of the first centres.
        on_round: Called after each round with its number, from 1, and that of all.

    Returns:
        float32 ``(k, D)``.

    Raises:
        ValueError: Fewer than k vectors.
        ImportError: faiss is not installed.
    """
    faiss = faiss_library("k-means")
    checks.whole("iterations", iterations)
    if len(vectors) < checks.whole("count", count):
        raise ValueError(f"clusters: expected at least {count} vectors for as many clusters, found {len(vectors)}")
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    first = np.random.default_rng(seed).choice(len(vectors), count, replace=False)
    centres: Float32Array = vectors[np.sort(first)]
    for done in range(1, iterations + 1):
        step = faiss.Kmeans(
            vectors.shape[1], count, niter=1, seed=1, min_points_per_centroid=1, max_points_per_centroid=len(vectors)
        )
        step.train(vectors, init_centroids=centres)
        before, centres = centres, step.centroids
        on_round(done, iterations)
        if np.array_equal(before, centres):
            break
    return centres


def nearest(vectors: Float32Array, centres: Float32Array, count: int) -> Int64Array:
    """Numbers of the nearest centres by Euclidean distance, the nearest first: int64 ``(N, min(count, k))``.

    Args:
        vectors: float32 ``(N, D)``.
        centres: float32 ``(k, D)``, at least one.
        count: How many for each vector.

    Raises:
        ImportError: faiss is not installed.
    """
    count = min(checks.whole("count", count), len(centres))
    if not len(vectors):
        return np.zeros((0, count), np.int64)
    faiss = faiss_library("assignment to visual words")
    numbers: Int64Array = faiss.knn(
        np.ascontiguousarray(vectors, np.float32), np.ascontiguousarray(centres, np.float32), count
    )[1]
    return numbers.astype(np.int64, copy=False)
