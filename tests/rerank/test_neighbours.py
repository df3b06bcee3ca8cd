from __future__ import annotations

import builtins
import logging
from typing import Any

import numpy as np
import pytest

from objemb.ops.neighbours import NO_ROW, nearest_neighbours
from objemb.rerank import _neighbours
from objemb.rerank._neighbours import approximate_neighbours, row_neighbours
from tests.rerank.made import random_database


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
    assert few.tolist() == [[1, NO_ROW, NO_ROW], [0, NO_ROW, NO_ROW]]


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
