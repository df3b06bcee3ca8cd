"""The nearest neighbours of every row of a database: exact, or approximate for large databases."""

from __future__ import annotations

import logging

import numpy as np

from objemb import checks
from objemb.index.storage.blocks import VectorBlock
from objemb.index.structures import DEFAULT_ENGINE, engine_named
from objemb.ops.products import float_products
from objemb.ops.scored_pairs import NO_HIT
from objemb.rerank._database import DenseDatabase
from objemb.types import Float32Array, Int64Array

logger = logging.getLogger(__name__)

#: From this number of rows on, neighbours are approximate if FAISS is installed.
APPROXIMATE_ROWS = 200_000
#: Number of rows in one FAISS search.
SEARCHED = 1 << 12
#: Number of rows that are compared with ``COLUMNS`` others at a time; their products take 64 MB.
ROWS, COLUMNS = 1 << 10, 1 << 14


def row_neighbours(database: DenseDatabase, k: int, *, other_images: bool) -> tuple[Int64Array, Float32Array]:
    """The ``k`` nearest rows of every row, as :func:`nearest_neighbours`.

    Args:
        database: R rows. From :data:`APPROXIMATE_ROWS` rows on, FAISS is used, which may miss neighbours.
        k: Neighbours per row.
        other_images: Whether to leave out all rows of the same image, instead of only the row itself.
    """
    groups = database.items if other_images else np.arange(len(database.items))
    if len(groups) < APPROXIMATE_ROWS:
        return nearest_neighbours(database.vectors, groups, k)
    try:
        return approximate_neighbours(database.vectors, groups, k)
    except ImportError as error:
        logger.warning("the neighbours of %d rows are searched exactly, which takes hours: %s", len(groups), error)
        return nearest_neighbours(database.vectors, groups, k)


def nearest_neighbours(vectors: Float32Array, groups: Int64Array, k: int) -> tuple[Int64Array, Float32Array]:
    """The ``k`` rows of other groups with the largest inner products, for each row, exactly.

    Time is quadratic in the number of rows, memory is linear; ``vectors`` may be a memory map. The choice among equal
    products is arbitrary.

    Args:
        vectors: float32 ``(R, D)``.
        groups: int64 ``(R,)``, non-decreasing. ``arange(R)`` leaves out only the row itself.
        k: Neighbours per row.

    Returns:
        int64 ``(R, k)`` rows, nearest first, padded with ``NO_HIT``, and their products float32 ``(R, k)``.
    """
    checks.whole("k", k)
    rows = np.full((len(vectors), k), NO_HIT, dtype=np.int64)
    products = np.full((len(vectors), k), -np.inf, dtype=np.float32)
    for start in range(0, len(vectors), ROWS):
        here = slice(start, start + ROWS)
        best, at = _nearest_to(vectors, groups, here, k)
        count = min(k, best.shape[1])
        products[here, :count] = best
        rows[here, :count] = np.where(np.isneginf(best), NO_HIT, at)
    return rows, products


def approximate_neighbours(vectors: Float32Array, groups: Int64Array, k: int) -> tuple[Int64Array, Float32Array]:
    """The same by FAISS: products are exact, but a neighbour may be missed. Raises ``ImportError`` without FAISS."""
    blocks = [VectorBlock(vectors, np.arange(len(vectors)))]
    index = engine_named(DEFAULT_ENGINE).build(blocks)
    wanted = min(len(vectors), k + int(np.unique(groups, return_counts=True)[1].max()))
    rows = np.full((len(vectors), k), NO_HIT, dtype=np.int64)
    products = np.full((len(vectors), k), -np.inf, dtype=np.float32)
    for start in range(0, len(vectors), SEARCHED):
        here = slice(start, start + SEARCHED)
        hits = index.search(vectors[here], np.arange(len(vectors[here])), wanted, blocks)
        own = (hits.rows == NO_HIT) | (groups[hits.rows] == groups[here, None])
        order = np.argsort(own, axis=1, kind="stable")[:, :k]  # the others first, in their order
        missing = np.take_along_axis(own, order, axis=1)
        width = order.shape[1]
        rows[here, :width] = np.where(missing, NO_HIT, np.take_along_axis(hits.rows, order, axis=1))
        products[here, :width] = np.where(missing, -np.inf, np.take_along_axis(hits.scores, order, axis=1))
    return rows, products


def _nearest_to(vectors: Float32Array, groups: Int64Array, here: slice, k: int) -> tuple[Float32Array, Int64Array]:
    """Products and rows of the neighbours of some rows, in descending order."""
    own, own_groups = vectors[here], groups[here]
    best, at = np.zeros((len(own), 0), np.float32), np.zeros((len(own), 0), np.int64)
    for start in range(0, len(vectors), COLUMNS):
        there = groups[start : start + COLUMNS]
        products = float_products(own, vectors[start : start + COLUMNS])
        if there[0] <= own_groups[-1] and there[-1] >= own_groups[0]:
            products[own_groups[:, None] == there[None]] = -np.inf
        columns = _largest(products, k)
        best = np.concatenate([best, np.take_along_axis(products, columns, axis=1)], axis=1)
        at = np.concatenate([at, columns + start], axis=1)
        kept = _largest(best, k)
        best, at = np.take_along_axis(best, kept, axis=1), np.take_along_axis(at, kept, axis=1)
    order = np.argsort(-best, axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1), np.take_along_axis(at, order, axis=1)


def _largest(values: Float32Array, k: int) -> Int64Array:
    """The columns of the ``k`` largest values of each row, in any order; all columns if there are no more than k."""
    columns = values.shape[1]
    if columns <= k:
        return np.broadcast_to(np.arange(columns), values.shape)
    return np.argpartition(values, columns - k, axis=1)[:, columns - k :]
