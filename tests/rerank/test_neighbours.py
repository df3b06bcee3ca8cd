from __future__ import annotations

import builtins
import logging
from typing import Any

import numpy as np
import pytest

from objemb.ops.scored_pairs import NO_HIT
from objemb.rerank import _neighbours
from objemb.rerank._neighbours import approximate_neighbours, nearest_neighbours, row_neighbours
from tests.rerank.made import random_database, unit_rows


@pytest.mark.parametrize("other_images", [True, False])
def test_approximate_neighbours_are_the_exact_ones_where_faiss_looks_everywhere(other_images: bool) -> None:
    pytest.importorskip("faiss")
    data = random_database(60)
    groups = data.items if other_images else np.arange(len(data.items))
    expected, products = nearest_neighbours(data.vectors, groups, 5)
    found, scores = approximate_neighbours(data.vectors, groups, 5)
    assert found.tolist() == expected.tolist()
    assert scores == pytest.approx(products, abs=1e-5)
    few, _ = approximate_neighbours(data.vectors[:2], np.arange(2), 3)
    assert few.tolist() == [[1, NO_HIT, NO_HIT], [0, NO_HIT, NO_HIT]]


def test_large_databases_are_searched_approximately(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = random_database(10)
    calls: list[int] = []
    expected = row_neighbours(data, 2, other_images=True)
    monkeypatch.setattr(_neighbours, "APPROXIMATE_ROWS", 2)
    monkeypatch.setattr(_neighbours, "approximate_neighbours", lambda *a: calls.append(1) or expected)
    assert row_neighbours(data, 2, other_images=True) is expected
    assert calls == [1]
    monkeypatch.undo()
    monkeypatch.setattr(_neighbours, "APPROXIMATE_ROWS", 2)
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **options: Any) -> Any:
        if name == "faiss":
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with caplog.at_level(logging.WARNING):
        found = row_neighbours(data, 2, other_images=True)
    assert found[0].tolist() == expected[0].tolist()
    assert "takes hours" in caplog.text


def slow(vectors: np.ndarray, groups: np.ndarray, k: int) -> list[list[int]]:
    found = []
    for own, vector in zip(groups, vectors, strict=True):
        others = [j for j in range(len(vectors)) if groups[j] != own]
        found.append(sorted(others, key=lambda j: -float(vectors[j] @ vector))[:k])
    return found


@pytest.mark.parametrize(("rows", "columns"), [(1024, 1 << 14), (7, 5), (1, 1)])
def test_any_blocks_give_what_the_loop_gives(rows: int, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_neighbours, "ROWS", rows)
    monkeypatch.setattr(_neighbours, "COLUMNS", columns)
    vectors, groups = unit_rows(40, 6), np.sort(np.random.default_rng(1).integers(0, 12, 40))
    for of in (groups, np.arange(40)):
        found, products = nearest_neighbours(vectors, of, 5)
        assert found.tolist() == slow(vectors, of, 5)
        assert products == pytest.approx(np.einsum("nd,nkd->nk", vectors, vectors[found]), abs=1e-6)


def test_fewer_than_k() -> None:
    found, products = nearest_neighbours(unit_rows(3, 6), np.array([0, 0, 1]), 4)
    assert found.tolist() == [[2, NO_HIT, NO_HIT, NO_HIT], [2, NO_HIT, NO_HIT, NO_HIT], [*found[2, :2], NO_HIT, NO_HIT]]
    assert np.isneginf(products[found == NO_HIT]).all()
    for count in (0, 1):
        found, _ = nearest_neighbours(unit_rows(count, 6), np.arange(count), 2)
        assert found.tolist() == [[NO_HIT, NO_HIT]] * count


def test_a_read_only_map_is_accepted() -> None:
    vectors = unit_rows(5, 6)
    expected, _ = nearest_neighbours(vectors, np.arange(5), 2)
    vectors.setflags(write=False)
    assert nearest_neighbours(vectors, np.arange(5), 2)[0].tolist() == expected.tolist()
