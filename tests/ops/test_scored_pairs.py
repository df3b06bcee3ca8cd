from __future__ import annotations

import numpy as np
import pytest

from objemb.ops.scored_pairs import Pairs, best_of_images, pairs_of, places, rank, top_images


def pairs(*entries: tuple[int, int, int, int, float]) -> Pairs:
    rows, query_rows, queries, images, scores = zip(*entries, strict=True)
    return Pairs(*(np.array(c, np.int64) for c in (rows, query_rows, queries, images)), np.array(scores, np.float32))


def test_the_best_pair_of_each_image_remains() -> None:
    best, place = best_of_images(
        pairs((0, 0, 0, 7, 0.5), (1, 0, 0, 7, 0.9), (2, 0, 0, 8, 0.9), (0, 1, 1, 7, 0.1), (9, 0, 0, 3, -1.0))
    )
    assert best.images.tolist() == [7, 8, 3, 7]
    assert best.rows.tolist() == [1, 2, 9, 0]
    assert place.tolist() == [0, 1, 2, 0]


def test_a_pair_that_was_found_twice_counts_once() -> None:
    twice = pairs((4, 0, 0, 7, 0.5), (4, 0, 0, 7, 0.5))
    assert top_images(twice, 1, 2).rows.tolist() == [[4, -1]]


def test_hits_become_pairs_and_hits_again() -> None:
    hits = top_images(pairs((0, 0, 0, 7, 0.5), (5, 2, 2, 7, 0.9), (6, 2, 2, 8, 0.8)), 4, 2)
    again = top_images(pairs_of(hits), 4, 2)
    for name in ("images", "scores", "rows", "query_rows"):
        np.testing.assert_array_equal(getattr(hits, name), getattr(again, name))


def test_places() -> None:
    assert places(np.array([0, 0, 3, 3, 3, 5])).tolist() == [0, 1, 0, 1, 2, 0]
    assert places(np.array([], np.int64)).tolist() == []


@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("decimals", [1, 9])  # with ties, without
def test_order(queries: int, decimals: int) -> None:
    random = np.random.default_rng(0)
    columns = [random.integers(0, most, 200) for most in (50, 4, queries, 9)]
    some = Pairs(*columns, random.random(200).round(decimals).astype(np.float32))
    order = rank(some)
    keys = list(zip(some.queries, -some.scores, some.rows, some.query_rows, strict=True))
    assert [keys[n] for n in order] == sorted(keys)
