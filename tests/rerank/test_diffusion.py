from __future__ import annotations

import gc

import numpy as np
import pytest

from objemb.rerank._database import DenseDatabase
from objemb.rerank.diffusion import Diffusion
from objemb.structures import RegionDescriptors
from tests.rerank.made import database, described, names, query, random_database, random_rows, scores, search
from tests.rerank.test_graph import dense_laplacian

pytest.importorskip("scipy")

MINIMAL = {"neighbours": 4, "query_neighbours": 2}

X, Y = (1.0, 0.0), (0.0, 1.0)


def published_affinity(vectors: np.ndarray, k: int) -> np.ndarray:
    """As the authors released it: a row is one of its own k nearest, and is taken out of the matrix afterwards."""
    products = vectors @ vectors.T
    nearest = [set(np.argsort(-row, kind="stable")[:k].tolist()) for row in products]
    affinity = np.zeros(products.shape)
    for i, j in np.ndindex(*products.shape):
        if j in nearest[i] and i in nearest[j]:
            affinity[i, j] = max(0.0, products[i, j]) ** 3
    np.fill_diagonal(affinity, 0)
    return affinity


def slow(data: DenseDatabase, asked: RegionDescriptors, k: int, kq: int, rows: np.ndarray | None = None) -> np.ndarray:
    """Score per image, with full matrices; ``rows`` are those of a truncated graph."""
    affinity = published_affinity(data.vectors.astype(float), k)
    rows = np.arange(len(affinity)) if rows is None else rows
    products = data.vectors @ asked.vectors.T
    sums = np.zeros(len(products))
    for of_region in products.T:
        for row in np.argsort(-of_region)[:kq]:
            sums[row] += of_region[row]
    start = np.zeros(len(products))
    for row in np.argsort(-sums)[:kq]:
        start[row] = max(0, sums[row]) ** 3
    spread = np.linalg.solve(dense_laplacian(affinity[rows][:, rows], 0.99), start[rows])
    scores = np.zeros(len(data.images))
    for image in range(len(data.images)):
        inside = np.flatnonzero(data.items[rows] == image)
        own = data.rows_of_images([str(image)]).vectors.astype(float)
        if len(inside):
            weights = np.linalg.solve(own @ own.T + np.eye(len(own)), np.ones(len(own)))
            offset = int(data.starts[image])
            scores[image] = weights[rows[inside] - offset] @ spread[inside]
    return scores


def exact(**options: object) -> Diffusion:
    return Diffusion(neighbours=6, query_neighbours=4, iterations=300, tolerance=1e-9, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("most", [1, 4])
def test_scores_as_full_matrices_give_them(most: int) -> None:
    data = random_database(40, most=most)
    asked = [described(str(n), random_rows(n, seed=n).tolist(), 8) for n in (1, 3)]
    found = exact().rerank(search(data, *asked))
    for number, one in enumerate(asked):
        expected = slow(data, one, 6, 4)
        reached = [hit for hit in found.results[number] if expected[int(hit.image)] > 1e-9]
        assert len(reached) >= 4
        assert [h.score for h in reached] == pytest.approx([expected[int(h.image)] for h in reached], abs=1e-5)
        assert scores(found, number) == sorted(scores(found, number), reverse=True)
        assert set(names(found, number)) == {data.images[i] for i in set(data.items.tolist())}


def test_truncated_as_full_matrices_give_them() -> None:
    data = random_database(40)
    asked = described("q", random_rows(2, seed=3).tolist(), 8)
    nearest = np.sort(np.argsort(-(data.vectors @ asked.vectors.T).max(1))[:25])
    expected = slow(data, asked, 6, 4, nearest)
    found = exact(truncate=25).rerank(search(data, asked, depth=1))
    assert 4 <= len(found.results[0]) <= 25
    for hit in found.results[0]:
        assert hit.score == pytest.approx(expected[int(hit.image)], abs=1e-5)
    assert exact(truncate=None).rerank(search(data, asked)).results == exact().rerank(search(data, asked)).results


def test_a_view_is_found_by_way_of_another() -> None:
    """A chain that leads away from the query, and a lone row nearer to it than the end of the chain."""

    def turned(degrees: float) -> tuple[float, float]:
        return (float(np.cos(np.radians(degrees))), float(np.sin(np.radians(degrees))))

    data = database(*([turned(a)] for a in (5, 25, 45, 65, -60)))
    asked = search(data, query(X))
    assert names(asked) == ["0", "1", "2", "4", "3"]
    found = Diffusion(neighbours=3, query_neighbours=1).rerank(asked)
    assert names(found)[-1] == "4"


def test_boxes_are_those_that_contribute_and_match() -> None:
    data = database([Y, X], [(0.8, 0.6)])
    found = Diffusion(neighbours=2, query_neighbours=1).rerank(search(data, query(Y, X), depth=1))
    best = {hit.image: hit for hit in found.results[0]}["0"]
    assert best.box in ((0, 0, 10, 10), (10, 0, 20, 10))
    assert best.query_box == ((0, 0, 10, 10) if best.box == (0, 0, 10, 10) else (10, 0, 20, 10))


def test_what_is_not_reached_follows_in_its_order() -> None:
    data = database([X], [(0.0, -1.0)], [(-0.6, 0.8)])
    found = Diffusion(neighbours=2, query_neighbours=1).rerank(search(data, query(X)))
    assert names(found) == ["0", "1", "2"]
    opposite = search(database([(-1.0, 0.0)], [(-0.6, -0.8)]), query(X))
    assert Diffusion().rerank(opposite).results == opposite.results


def test_the_graph_is_made_once_and_let_go() -> None:
    step, data = Diffusion(), database([X], [Y])
    step.rerank(search(data, query(X)))
    graph = step._graphs[data]
    step.rerank(search(data, query(Y), query()))
    assert step._graphs[data] is graph
    del data
    gc.collect()
    assert len(step._graphs) == 0


def test_nothing_and_mistakes() -> None:
    assert Diffusion().rerank(search(database(), query(X), query())).results[0].hits == ()
    assert names(Diffusion().rerank(search(database([X]), query(X)))) == ["0"]
    with pytest.raises(ValueError, match="alpha: expected a number"):
        Diffusion(alpha=1.0)
    with pytest.raises(ValueError, match="neighbours: expected an integer of 2 or more, found 1"):
        Diffusion(neighbours=1)
    with pytest.raises(ValueError, match="truncate: expected an integer of 1 or more, found 0"):
        Diffusion(truncate=0)
