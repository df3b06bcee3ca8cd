"""Similarities of the rows of a query and the rows of some images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from objemb.rerank._database import Database
from objemb.structures import RegionDescriptors
from objemb.types import Float32Array, Int64Array

#: Number of rows of the database that are multiplied at a time.
ROWS = 1 << 16


def rows_of(database: Database, images: Sequence[str]) -> tuple[Int64Array, Int64Array]:
    """The rows of some images, one image after another, int64 ``(n,)``, and the end of each image, ``(images,)``."""
    slices = [database.rows(image) for image in images]
    rows = [np.zeros(0, np.int64), *(np.arange(s.start, s.stop) for s in slices)]
    return np.concatenate(rows), np.cumsum([s.stop - s.start for s in slices], dtype=np.int64)


def similarities(database: Database, query: RegionDescriptors, images: Sequence[str]) -> list[Float32Array]:
    """For each image, the inner products of its rows and those of the query, float32 ``(rows, query rows)``."""
    rows, ends = rows_of(database, images)
    return np.split(database.vectors[rows] @ query_vectors(query).T, ends[:-1]) if len(images) else []


def all_similarities(database: Database, query: RegionDescriptors) -> Float32Array:
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
