"""Similarities of the rows of a query and the rows of some images."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from objemb.rerank._database import DenseDatabase
from objemb.structures import ImageRows, RegionDescriptors
from objemb.types import Float32Array

#: Number of rows of the database that are multiplied at a time.
ROWS = 1 << 16


def similarities(rows: ImageRows, query: RegionDescriptors) -> list[Float32Array]:
    """For each image, the inner products of its rows and those of the query, float32 ``(rows, query rows)``."""
    products = rows.vectors @ query_vectors(query).T
    return [products[start:stop] for start, stop in pairwise(rows.starts.tolist())]


def all_similarities(database: DenseDatabase, query: RegionDescriptors) -> Float32Array:
    """Inner products of all rows of the database and those of the query, float32 ``(R, query rows)``."""
    vectors = query_vectors(query)
    products = np.empty((len(database.vectors), len(vectors)), dtype=np.float32)
    for start in range(0, len(products), ROWS):
        products[start : start + ROWS] = database.vectors[start : start + ROWS] @ vectors.T
    return products


def best_pair(products: Float32Array) -> tuple[int, int]:
    """Row and query row of the largest of ``(rows, query rows)`` products; the first of equal ones."""
    row, query_row = np.unravel_index(int(products.argmax()), products.shape)
    return int(row), int(query_row)


def query_vectors(query: RegionDescriptors) -> Float32Array:
    """The vectors of a query, float32 ``(query rows, D)``."""
    return query.vectors
