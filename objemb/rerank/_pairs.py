"""Similarities of the rows of a query and the rows of some images."""

from __future__ import annotations

import numpy as np

from objemb.rerank._database import DenseDatabase
from objemb.structures import ImageRows, RegionDescriptors
from objemb.types import Float32Array, Int64Array

#: Number of rows of the database that are multiplied at a time.
ROWS = 1 << 16


def best_pairs(rows: ImageRows, query: RegionDescriptors) -> tuple[Int64Array, Int64Array, Int64Array, Float32Array]:
    """For each image with rows, its row and the query row with the largest inner product; the first of equal ones.

    Returns:
        int64 ``(n,)`` positions of these images in ``rows.images``, the row and the query row of each, and float32
        ``(n,)`` the product of both.
    """
    images = (rows.starts[1:] > rows.starts[:-1]).nonzero()[0]
    if not len(images) or not len(query):
        return images[:0], images[:0], images[:0], np.zeros(0, np.float32)
    products = rows.vectors @ query_vectors(query).T
    starts, best = rows.starts[images], products.max(axis=1)
    largest = np.maximum.reduceat(best, starts)
    of_rows = np.zeros(len(rows.images), np.float32)
    of_rows[images] = largest
    is_largest = best == of_rows[rows.items]
    of_images = np.minimum.reduceat(np.where(is_largest, np.arange(len(best)), len(best)), starts)
    return images, of_images, products[of_images].argmax(axis=1), largest


def all_similarities(database: DenseDatabase, query: RegionDescriptors) -> Float32Array:
    """Inner products of all rows of the database and those of the query, float32 ``(R, query rows)``."""
    vectors = query_vectors(query)
    products = np.empty((len(database.vectors), len(vectors)), dtype=np.float32)
    for start in range(0, len(products), ROWS):
        products[start : start + ROWS] = database.vectors[start : start + ROWS] @ vectors.T
    return products


def query_vectors(query: RegionDescriptors) -> Float32Array:
    """The vectors of a query, float32 ``(query rows, D)``."""
    return query.vectors
