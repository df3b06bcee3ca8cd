from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from objemb.rerank.query_expansion import QueryExpansion
from tests.rerank.made import database, described, names, query, random_database, random_rows, scores, search

MINIMAL = {"top": 2}

X, Y = (1.0, 0.0), (0.0, 1.0)


def test_the_average_by_hand() -> None:
    data = database([(0.8, 0.6)], [(0.6, 0.8)], [(0.96, -0.28)])
    found = QueryExpansion(top=2).rerank(search(data, query(X)))
    mixed = np.array([1 + 0.96 + 0.8, -0.28 + 0.6])
    assert found.queries[0].vectors == pytest.approx(mixed[None] / np.linalg.norm(mixed), abs=1e-6)
    assert scores(found)[0] == pytest.approx(
        0.96 * found.queries[0].vectors[0, 0] - 0.28 * found.queries[0].vectors[0, 1]
    )
    mean = QueryExpansion(top=2, normalise=False).rerank(search(data, query(X)))
    assert mean.queries[0].vectors == pytest.approx(mixed[None] / 3, abs=1e-6)
    assert names(mean) == names(found)


def test_alpha_by_hand() -> None:
    data = database([(0.6, 0.8)], [(-1.0, 0.0)])
    found = QueryExpansion(top=5, alpha=3).rerank(search(data, query(X)))
    mixed = np.array([1 + 0.6**3 * 0.6, 0.6**3 * 0.8])
    assert found.queries[0].vectors == pytest.approx(mixed[None] / np.linalg.norm(mixed), abs=1e-6)


def test_adding_up_is_averaging() -> None:
    """CroW and CAM add the first ten to the query, which differs by a factor that normalisation takes away."""
    data = random_database(30, most=1)
    asked = search(data, described("q", random_rows(1, seed=4).tolist(), 8))
    rows = [data.rows_of_images([hit.image]).vectors[0] for hit in asked.results[0].hits[:10]]
    total = torch.as_tensor(asked.queries[0].vectors)[0].numpy() + np.sum(rows, axis=0)
    found = QueryExpansion(top=10).rerank(asked)
    assert torch.as_tensor(found.queries[0].vectors)[0].numpy() == pytest.approx(
        total / np.linalg.norm(total), abs=1e-5
    )


@pytest.mark.parametrize("alpha", [0.0, 3.0])
def test_regions_as_the_loop_gives_them(alpha: float) -> None:
    data = random_database(40)
    asked = search(data, *(described(str(n), random_rows(n, seed=n).tolist(), 8) for n in (1, 3, 5)))
    found = QueryExpansion(top=6, alpha=alpha).rerank(asked)
    for old, new, result in zip(asked.queries, found.queries, asked.results, strict=True):
        expected = torch.as_tensor(old.vectors).clone()
        for hit in result.hits[:6]:
            rows = torch.as_tensor(data.rows_of_images([hit.image]).vectors)
            pairs = [(float(r @ q), i, j) for i, r in enumerate(rows) for j, q in enumerate(old.vectors)]
            score, i, j = max(pairs)
            expected[j] += rows[i] * max(0.0, score) ** alpha
        torch.testing.assert_close(
            torch.as_tensor(new.vectors), torch.nn.functional.normalize(expected), atol=1e-5, rtol=0
        )
        assert (new.image, len(new)) == (old.image, len(old))


def test_boxes_of_different_objects_stay_apart() -> None:
    data = database([(0.8, 0.6)], [(0.0, 1.0), (0.6, 0.8)])
    found = QueryExpansion(top=2).rerank(search(data, query(X, Y)))
    assert found.queries[0].vectors == pytest.approx(np.array([(1.8, 0.6), (0, 2)]) / [[3.6**0.5], [2]], abs=1e-6)
    assert found.results[0][0].box == (0, 0, 10, 10)


def test_nothing_found_and_fewer_than_top() -> None:
    data = database([X], [])
    asked = search(data, query(X), query())
    found = QueryExpansion(top=50, alpha=3).rerank(asked)
    assert [len(r) for r in found.results] == [1, 0]
    nothing = replace(asked, results=tuple(replace(r, hits=()) for r in asked.results))
    assert QueryExpansion().rerank(nothing).queries[0].vectors.tolist() == [[1, 0]]
    with pytest.raises(ValueError, match="top: expected an integer of 1 or more, found 0"):
        QueryExpansion(top=0)
    with pytest.raises(ValueError, match="alpha: expected a number from 0"):
        QueryExpansion(alpha=-1)
