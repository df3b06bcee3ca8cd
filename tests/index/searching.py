"""Small indexes for tests of search, and the slow search that is obviously right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from objemb.index.storage.blocks import VectorBlock
from objemb.ops.int8_codes import encode
from objemb.ops.scored_pairs import NO_HIT, GroupedHits


def unit_rows(random: np.random.Generator, count: int, dim: int) -> np.ndarray:
    rows = random.standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def random_block(random: np.random.Generator, images: int, dim: int, first_image: int = 0) -> VectorBlock:
    """Up to 5 rows an image; duplicates that tie; any mix of float16, codes, and deleted rows."""
    numbers = np.repeat(np.arange(first_image, first_image + images) * 7, random.integers(1, 6, size=images))
    vectors = unit_rows(random, len(numbers), dim)
    if len(vectors) > 10:
        vectors[random.integers(len(vectors), size=len(vectors) // 3)] = vectors[0]
    vectors = vectors.astype(random.choice(["float16", "float32"]))
    alive = random.random(len(vectors)) < random.choice([0, 0.1, 0.9]) if random.random() < 0.6 else None
    return VectorBlock(vectors, numbers, alive, encode(vectors) if random.random() < 0.6 else None)


def slow_search(
    blocks: Sequence[VectorBlock], queries: np.ndarray, groups: np.ndarray, k: int, count: int
) -> GroupedHits:
    """Every pair in a Python loop, in float64."""
    hits = GroupedHits(
        np.full((count, k), NO_HIT),
        np.full((count, k), -np.inf, dtype=np.float32),
        np.full((count, k), NO_HIT),
        np.full((count, k), NO_HIT),
    )
    rows = [(v, i, a) for b in blocks for v, i, a in zip(b.vectors, b.images, _alive(b), strict=True)]
    for query in range(count):
        best: dict[int, tuple[float, int, int]] = {}
        for column in np.flatnonzero(groups == query):
            for row, (vector, image, alive) in enumerate(rows):
                score = np.float32(vector.astype(np.float64) @ queries[column].astype(np.float64))
                key = (-score, row, int(column))
                if alive and (image not in best or key < best[image]):
                    best[image] = key
        for place, (image, (score, row, column)) in enumerate(sorted(best.items(), key=lambda item: item[1])[:k]):
            hits.images[query, place], hits.scores[query, place] = image, -score
            hits.rows[query, place], hits.query_rows[query, place] = row, column
    return hits


def _alive(block: VectorBlock) -> np.ndarray:
    return np.ones(len(block), dtype=bool) if block.alive is None else block.alive


def assert_same(found: GroupedHits, expected: GroupedHits) -> None:
    np.testing.assert_array_equal(found.images, expected.images)
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(found.query_rows, expected.query_rows)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=1e-6)
