from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from objemb.evaluation import ranks
from objemb.evaluation.ranks import UNRANKED, RankedItems, rank_items
from objemb.index.engines.exact import search_exact
from objemb.index.storage.blocks import VectorBlock
from objemb.ops.scored_pairs import NO_HIT
from objemb.structures import ImageRows
from objemb.types import Int64Array


def rows(vectors: NDArray, items: list[int], images: int) -> ImageRows:
    boxes = np.arange(4 * len(items), dtype=np.float32).reshape(-1, 4)
    names = tuple(map(str, range(images)))
    return ImageRows(names, np.asarray(vectors, dtype=np.float32), np.array(items, dtype=np.int64), boxes)


def completely_sorted(
    database: ImageRows, queries: ImageRows, num_items: int, num_queries: int
) -> list[tuple[list[int], list]]:
    """The slow reference: whole rankings, with the boxes that matched."""
    block = VectorBlock(database.vectors, database.items)
    hits = search_exact([block], queries.vectors, queries.items, max(1, num_items), count=num_queries)
    found = []
    for items, at in zip(hits.images, hits.rows, strict=True):
        known = items != NO_HIT
        found.append((items[known].tolist(), database.boxes[at[known]].tolist()))
    return found


def all_of(num_items: int, num_queries: int) -> list[Int64Array]:
    return [np.arange(num_items)] * num_queries


@pytest.mark.parametrize("numbers", [1, 40, 1 << 22])
@pytest.mark.parametrize("per_pass", [1, 3, 256])
def test_places_are_those_of_complete_sorting(monkeypatch: pytest.MonkeyPatch, numbers: int, per_pass: int) -> None:
    monkeypatch.setattr(ranks, "NUMBERS_PER_BLOCK", numbers)
    monkeypatch.setattr(ranks, "QUERY_ROWS_PER_PASS", per_pass)
    random = np.random.default_rng(0)
    items = np.sort(random.integers(0, 40, 90)).tolist()  # some items have several rows, some none
    database = rows(random.standard_normal((90, 7)), items, 40)
    queries = rows(random.standard_normal((6, 7)), [0, 1, 1, 1, 3, 4], 5)  # query 2 has none
    expected = completely_sorted(database, queries, 40, 5)
    for of_query, (order, boxes) in zip(rank_items(database, queries, all_of(40, 5)), expected, strict=True):
        assert of_query.places[order].tolist() == list(range(len(order)))
        assert of_query.boxes[order].tolist() == boxes
        assert set(np.flatnonzero(of_query.places == UNRANKED)) == set(range(40)) - set(order)


def test_ties_and_near_ties_are_those_of_complete_sorting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores that float32 cannot tell apart, and some that it just can, in float64 and float32 sums."""
    random = np.random.default_rng(1)
    base = random.standard_normal((3, 64)).astype(np.float32)
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    near = np.repeat(base, 60, axis=0) * (1 + random.integers(-2, 3, (180, 1)) * np.float32(2.0**-24))
    vectors = random.permutation(np.concatenate([near, -near, np.zeros((20, 64))]).astype(np.float32))
    database = rows(vectors, list(range(380)), 380)
    queries = rows(base[[0, 1, 0]], [0, 1, 2], 3)
    expected = completely_sorted(database, queries, 380, 3)
    for numbers in (64, 640, 1 << 22):
        monkeypatch.setattr(ranks, "NUMBERS_PER_BLOCK", numbers)
        for of_query, (order, _) in zip(rank_items(database, queries, all_of(380, 3)), expected, strict=True):
            assert np.argsort(of_query.places).tolist() == order


def test_places_of_some_items_by_hand() -> None:
    database = rows(np.array([[3.0], [9], [5], [5], [4], [7]]), [0, 0, 1, 2, 3, 5], 6)
    queries = rows(np.array([[1.0]]), [0], 1)
    (found,) = rank_items(database, queries, [np.array([0, 2, 4, 5])])
    assert found.places.tolist() == [0, 3, UNRANKED, 1]
    assert found.scores.tolist() == [9, 5, -np.inf, 7]
    assert found.boxes[:2].tolist() == [[4, 5, 6, 7], [12, 13, 14, 15]]
    assert np.isnan(found.boxes[2]).all()


def test_nothing_to_search_or_to_ask() -> None:
    none, one = rows(np.zeros((0, 5)), [], 2), rows(np.ones((1, 5)), [0], 1)
    assert rank_items(one, rows(np.zeros((0, 5)), [], 0), []) == []
    assert rank_items(none, one, [np.arange(2)])[0].places.tolist() == [UNRANKED, UNRANKED]
    assert [s.places.tolist() for s in rank_items(one, none, all_of(1, 2))] == [[UNRANKED], [UNRANKED]]
    assert rank_items(one, one, [np.zeros(0, np.int64)])[0].places.tolist() == []


def ranked(*places: int) -> RankedItems:
    count = len(places)
    zeros = np.zeros((count, 4), np.float32)
    return RankedItems(np.arange(count) * 10, np.array(places), np.zeros(count, np.float32), zeros)


def test_ranks_are_counted_without_junk() -> None:
    found = ranked(0, 4, UNRANKED, 2, 7, 9)
    assert found.ranks(np.array([10, 30, 20, 50]), np.array([0, 40])).tolist() == [1, 3, 7]
    assert found.ranks(np.array([], dtype=np.int64), np.array([0])).tolist() == []


def test_what_comes_first_overtakes_the_others() -> None:
    # places of items 0, 10 ... in a ranking: 3 0 20 1 10 . 30, with others at 4 and 6
    found = ranked(1, 3, 2, 0, 7, UNRANKED).behind(np.array([40, 10]), np.full((2, 4), 8, np.float32))
    assert found.places.tolist() == [3, 1, 4, 2, 0, UNRANKED]
    assert found.boxes[:, 0].tolist() == [0, 8, 0, 0, 8, 0]
    behind = ranked(9, 5, 2).behind(np.array([10]), np.zeros((1, 4), np.float32))
    assert behind.places.tolist() == [9, 0, 3]
