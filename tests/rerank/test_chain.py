from __future__ import annotations

from dataclasses import replace

from objemb.rerank.base import Reranker, Search, search_and_rerank
from objemb.rerank.query_expansion import QueryExpansion
from tests.rerank.made import database, query, random_database

ROWS = ([(1.0, 0.0)], [(0.8, 0.6)], [(0.6, 0.8)])


class Backwards(Reranker):
    """Reverses results, and remembers how deep they were."""

    def __init__(self, depth: int | None) -> None:
        self.depth = depth
        self.given: list[int] = []

    def rerank(self, search: Search) -> Search:
        self.given.append(search.depth)
        turned = [replace(r, hits=[replace(h, score=-h.score) for h in reversed(r.hits)]) for r in search.results]
        return replace(search, results=tuple(turned))


def test_results_are_as_deep_as_the_deepest_wants() -> None:
    data = random_database(40, most=1, dim=2)
    images = len(set(data.items.tolist()))
    for depth, wanted, expected in ((3, 5, 5), (7, 5, 7), (3, None, images), (1000, 2, images)):
        step = Backwards(wanted)
        found = search_and_rerank([query((1.0, 0.0))], data, [step, step], depth)
        assert step.given == [expected, expected]
        assert len(found.results[0]) == expected


def test_steps_build_on_each_other() -> None:
    data = database(*ROWS)
    plain = search_and_rerank([query((1.0, 0.0))], data, [], 3)
    assert [h.image for h in plain.results[0]] == ["0", "1", "2"]
    turned = search_and_rerank([query((1.0, 0.0))], data, [Backwards(None), QueryExpansion(top=1)], 1)
    assert turned.queries[0].vectors[0].tolist() != [1, 0]
    assert [h.image for h in turned.results[0]] == ["1", "0", "2"], "the query is mixed with what was last"


def test_nothing_to_search() -> None:
    assert search_and_rerank([], database(*ROWS), [QueryExpansion()], 5).results == ()
    found = search_and_rerank([query((1.0, 0.0)), query()], database(), [QueryExpansion()], 5)
    assert [len(r) for r in found.results] == [0, 0]
