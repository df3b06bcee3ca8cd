"""Region vectors distributed like those of a photo collection, for benchmarks of search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from objemb.types import Float32Array, Int64Array

#: Rows generated at once.
ROWS_PER_STEP = 65536


@dataclass(frozen=True, eq=False)
class Collection:
    """A gallery and queries.

    Attributes:
        vectors: float32 ``(images * regions, D)``, unit length.
        images: int64 ``(images * regions,)``, the image of each row.
        queries: float32 ``(Q, D)``, unit length, other views of objects of the gallery.
    """

    vectors: Float32Array
    images: Int64Array
    queries: Float32Array


def clustered_regions(images: int, regions: int, dim: int, queries: int, seed: int) -> Collection:
    """Views of common and rare objects, grouped in categories, and clutter.

    A category is a random direction with a decaying spectrum (as vectors have before full whitening); an object lies
    near its category, and a view near its object. The cosine of two views of an object is between about 0.65 and 0.95,
    that of two objects of one category about 0.5. The frequency of objects follows a power law of their rank. Three
    regions in ten are clutter that occurs only once.
    """
    random = np.random.default_rng(seed)
    rows = images * regions
    spectrum = np.arange(1, dim + 1, dtype=np.float32) ** -0.25
    spectrum /= np.linalg.norm(spectrum)
    categories = _directions(random, max(8, images // 200), spectrum)
    kinds = max(16, rows // 30)
    objects = _unit(
        categories[random.integers(len(categories), size=kinds)] + 0.9 * _directions(random, kinds, spectrum)
    )
    frequency = (np.arange(kinds) + 10.0) ** -0.6
    frequency /= frequency.sum()
    changes = np.exp(random.normal(np.log(0.45), 0.3, size=kinds)).astype(np.float32)

    def views(chosen: Int64Array) -> Float32Array:
        return _unit(objects[chosen] + changes[chosen, None] * _directions(random, len(chosen), spectrum))

    vectors = np.empty((rows, dim), dtype=np.float32)
    for start in range(0, rows, ROWS_PER_STEP):
        here = vectors[start : start + ROWS_PER_STEP]
        here[:] = views(random.choice(kinds, size=len(here), p=frequency))
        clutter = np.flatnonzero(random.random(len(here)) < 0.3)
        own = categories[random.integers(len(categories), size=len(clutter))]
        here[clutter] = _unit(own + 1.2 * _directions(random, len(clutter), spectrum))
    query_vectors = views(random.choice(kinds, size=queries, p=frequency))
    return Collection(vectors, np.repeat(np.arange(images), regions), query_vectors)


def _directions(random: np.random.Generator, count: int, spectrum: Float32Array) -> Float32Array:
    """Random vectors of about unit length whose components decay as ``spectrum``."""
    return random.standard_normal((count, len(spectrum)), dtype=np.float32) * spectrum


def _unit(rows: Float32Array) -> Float32Array:
    unit: Float32Array = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit
