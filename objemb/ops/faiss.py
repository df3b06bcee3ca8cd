"""Functions that use FAISS: k-means of many vectors, and their nearest centres.

For a thousand vectors and 65,536 centres of 128 dimensions, an exact search takes 0.36 s on one core. Inverted lists
take a quarter of that (and miss hardly any), a graph a third, but building them would take 6 and 9 s whenever a model
is opened; computing the features of a photo takes longer than the search.
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
    """The module ``faiss``.

    Args:
        what: The part that needs it, for the message.

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
    spherical: bool = False,
    on_round: Callable[[int, int], None] = lambda done, of: None,
) -> Float32Array:
    """Centres of clusters by Lloyd's k-means, initialised with random vectors, for numbers of centres at which
    :mod:`objemb.ops.kmeans` is too slow.

    A cluster that loses all its vectors takes half of those of a large one, as in faiss.

    Args:
        vectors: float32 ``(N, D)``; all of them are used.
        count: Number of clusters k.
        iterations: Maximum number of rounds of assignment and update; fewer if nothing changes.
        seed: Seed of the initialisation.
        spherical: Whether centres have unit length and vectors belong to that of the largest inner product.
        on_round: Called after each round with its number, from 1, and the total number.

    Returns:
        float32 ``(k, D)``.

    Raises:
        ValueError: There are fewer than k vectors.
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
            vectors.shape[1],
            count,
            niter=1,
            seed=1,
            spherical=spherical,
            min_points_per_centroid=1,
            max_points_per_centroid=len(vectors),
        )
        step.train(vectors, init_centroids=centres)
        before, centres = centres, step.centroids
        on_round(done, iterations)
        if np.array_equal(before, centres):
            break
    return centres


def nearest(vectors: Float32Array, centres: Float32Array, count: int) -> Int64Array:
    """Indices of the nearest centres by Euclidean distance, the nearest first: int64 ``(N, min(count, k))``.

    Args:
        vectors: float32 ``(N, D)``.
        centres: float32 ``(k, D)``, at least one.
        count: Number of centres for each vector.

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
