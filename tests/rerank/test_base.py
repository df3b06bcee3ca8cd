from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from objemb.rerank.base import Search, put_first, ranked_first, scored
from objemb.structures import Match, SearchResult
from tests.rerank.made import database, query, search

BOX = (0.0, 0.0, 1.0, 1.0)


def hit(image: str, score: float, *runners_up: Match) -> Match:
    return Match(image, score, BOX, BOX, runners_up=runners_up)


def test_the_others_follow_and_never_score_more() -> None:
    result = SearchResult("q", (BOX,), tuple(hit(i, s) for i, s in (("a", 0.9), ("b", 0.8), ("c", 0.7), ("d", 0.1))))
    found = put_first(result, [hit("d", 0.2), hit("b", 0.5)])
    assert [(h.image, h.score) for h in found] == [("b", 0.5), ("d", 0.2), ("a", 0.2), ("c", 0.2)]
    assert [h.score for h in put_first(result, [hit("e", 0.8)])] == [0.8, 0.8, 0.8, 0.7, 0.1]
    assert put_first(result, []) == result
    assert [h.image for h in put_first(result, [hit("y", 1), hit("x", 1)])][:2] == ["y", "x"]


def test_newly_scored_hits_are_made_when_they_are_asked_for() -> None:
    result = SearchResult("q", (BOX,), tuple(hit(i, s) for i, s in (("a", 0.9), ("b", 0.8), ("c", 0.7), ("d", 0.1))))
    made = []

    def make(n: int) -> Match:
        made.append(n)
        return hit("db"[n], (0.25, 0.5)[n])

    found = ranked_first(result, [3, 1], np.array([0.25, 0.5], np.float32), make, (BOX,), "share")
    assert list(found.images) == ["b", "d", "a", "c"]
    assert not made
    assert (found[0].image, made) == ("b", [1])
    assert found == replace(put_first(result, [hit("d", 0.25), hit("b", 0.5)]), scale="share")
    assert sorted(made) == [0, 1]  # each once
    assert ranked_first(result, [], np.zeros(0, np.float32), make, (BOX,), result.scale) == result


def test_runners_up_are_lowered_with_their_match() -> None:
    found = scored(hit("a", 0.9, hit("a", 0.8), hit("a", 0.3)), 0.5)
    assert [r.score for r in found.runners_up] == [0.5, 0.3]


def test_missing_inputs_are_reported() -> None:
    asked = search(database([(1.0, 0.0)]), query((1.0, 0.0)))
    for call in (lambda: asked.found_photo("0"), lambda: asked.query_photo(0)):
        with pytest.raises(ValueError, match="photos can be opened"):
            call()
    with pytest.raises(ValueError, match=r"expected the describer of a PyTorch model, .*, found none"):
        asked.needed_describer()
    with pytest.raises(ValueError, match=r"expected one per query \(1\), found 0"):
        Search(asked.queries, (), asked.database)


def test_searching_again_goes_as_deep() -> None:
    asked = search(database([(1.0, 0.0)], [(0.6, 0.8)], [(0.0, 1.0)]), query((1.0, 0.0)), query(), depth=2)
    assert asked.depth == 2
    assert [len(r) for r in asked.again(asked.queries, asked.database).results] == [2, 0]
    assert replace(asked, queries=(), results=()).depth == 1
