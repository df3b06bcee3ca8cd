"""The nearest neighbours of every row of a database, exactly where that takes minutes, approximately where hours."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from objemb.index.blocks import Block
from objemb.index.ivf import build_ivf
from objemb.ops.neighbours import NO_ROW, nearest_neighbours
from objemb.rerank.database import Database

logger = logging.getLogger(__name__)

#: From this many rows on, neighbours are approximate where FAISS is installed.
APPROXIMATE_ROWS = 200_000
#: Rows that are searched for at once.
ROWS = 1 << 12


def row_neighbours(database: Database, k: int, *, other_images: bool) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The ``k`` nearest rows of every row, as :func:`objemb.ops.neighbours.nearest_neighbours` gives them.

    Args:
        database: R rows. From :data:`APPROXIMATE_ROWS` on FAISS searches, which may miss neighbours.
        k: Neighbours per row.
        other_images: Leave out the rows of the same image; else the row itself alone.
    """
    groups = database.items if other_images else np.arange(len(database.items))
    if len(groups) < APPROXIMATE_ROWS:
        return nearest_neighbours(database.vectors, groups, k)
    try:
        return approximate_neighbours(database.vectors, groups, k)
    except ImportError as error:
        logger.warning("the neighbours of %d rows are searched exactly, which takes hours: %s", len(groups), error)
        return nearest_neighbours(database.vectors, groups, k)


def approximate_neighbours(
    vectors: NDArray[np.float32], groups: NDArray[np.int64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The same by FAISS: products are exact, but a neighbour may be missed. Raises ``ImportError`` without FAISS."""
    blocks = [Block(vectors, np.arange(len(vectors)))]
    index = build_ivf(blocks)
    wanted = min(len(vectors), k + int(np.unique(groups, return_counts=True)[1].max()))
    rows = np.full((len(vectors), k), NO_ROW, dtype=np.int64)
    products = np.full((len(vectors), k), -np.inf, dtype=np.float32)
    for start in range(0, len(vectors), ROWS):
        here = slice(start, start + ROWS)
        found = index.search(vectors[here], np.arange(len(vectors[here])), wanted, blocks)
        own = (found.rows == NO_ROW) | (groups[found.rows] == groups[here, None])
        order = np.argsort(own, axis=1, kind="stable")[:, :k]  # the others first, in their order
        missing = np.take_along_axis(own, order, axis=1)
        width = order.shape[1]
        rows[here, :width] = np.where(missing, NO_ROW, np.take_along_axis(found.rows, order, axis=1))
        products[here, :width] = np.where(missing, -np.inf, np.take_along_axis(found.scores, order, axis=1))
    return rows, products
