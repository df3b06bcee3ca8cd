from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest

from objemb.ops.scored_pairs import NO_HIT
from objemb.rerank._graph import diffuse, generalised_max_weights, laplacian, mutual_affinity, start_vector
from objemb.rerank._neighbours import nearest_neighbours
from tests.rerank.made import unit_rows

pytest.importorskip("scipy")


def dense_affinity(vectors: np.ndarray, k: int, gamma: float) -> np.ndarray:
    """Equation by equation, with full matrices."""
    count = len(vectors)
    products = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    near = [set([j for j in np.argsort(-products[i]) if j != i][:k]) for i in range(count)]
    affinity = np.zeros((count, count))
    for i in range(count):
        for j in range(count):
            if i in near[j] and j in near[i]:
                affinity[i, j] = max(0.0, products[i, j]) ** gamma
    return affinity


def dense_laplacian(affinity: np.ndarray, alpha: float) -> np.ndarray:
    degrees = affinity.sum(1)
    scale = np.array([1 / d**0.5 if d else 0 for d in degrees])
    return np.eye(len(affinity)) - alpha * scale[:, None] * affinity * scale[None]


def test_the_graph_is_that_of_the_definition() -> None:
    vectors = unit_rows(30, 4)
    affinity = mutual_affinity(*nearest_neighbours(vectors, np.arange(30), 6), 3.0)
    expected = dense_affinity(vectors, 6, 3.0)
    assert affinity.toarray() == pytest.approx(expected, abs=1e-6)
    assert 0 < affinity.nnz < 30 * 6
    assert laplacian(affinity, 0.99).toarray() == pytest.approx(dense_laplacian(expected, 0.99), abs=1e-6)


def test_conjugate_gradient_solves_the_system() -> None:
    vectors = unit_rows(60, 4, seed=2)
    expected = dense_laplacian(dense_affinity(vectors, 8, 3.0), 0.99)
    system = laplacian(mutual_affinity(*nearest_neighbours(vectors, np.arange(60), 8), 3.0), 0.99)
    start = start_vector(vectors @ unit_rows(2, 4, seed=3).T, 5, 3.0)
    found = diffuse(system, start, iterations=200, tolerance=1e-9)
    assert found == pytest.approx(np.linalg.solve(expected, start), abs=1e-5)
    few = diffuse(system, start, iterations=20, tolerance=1e-6)
    assert np.corrcoef(few, found)[0, 1] > 0.99, "the 20 steps of the paper are near"


def test_two_and_a_lonely_row_by_hand() -> None:
    affinity = mutual_affinity(np.array([[1], [0], [NO_HIT]]), np.array([[0.5], [0.5], [-np.inf]], np.float32), 3.0)
    assert affinity.toarray().tolist() == [[0, 0.125, 0], [0.125, 0, 0], [0, 0, 0]]
    system = laplacian(affinity, 0.5)
    assert system.toarray() == pytest.approx(np.array([[1, -0.5, 0], [-0.5, 1, 0], [0, 0, 1]]))
    assert diffuse(system, np.array([0.75, 0, 0]), 20, 1e-9) == pytest.approx([1, 0.5, 0])
    assert diffuse(system, np.zeros(3), 20, 1e-6).tolist() == [0, 0, 0]


def test_dissimilar_neighbours_are_not_connected() -> None:
    affinity = mutual_affinity(np.array([[1], [0]]), np.array([[-0.5], [-0.5]], np.float32), 3.0)
    assert affinity.nnz == 0
    assert mutual_affinity(np.zeros((0, 3), np.int64), np.zeros((0, 3), np.float32), 3.0).shape == (0, 0)


def test_where_diffusion_starts_by_hand() -> None:
    of_regions = np.array([[0.9, 0.1], [0.8, 0.7], [0.2, 0.6], [0.3, -0.1]], np.float32)
    # the regions name rows 0, 1 and 1, 2: sums 0.9, 1.5, 0.6, of which two are kept
    assert start_vector(of_regions, 2, 3.0) == pytest.approx([0.9**3, 1.5**3, 0, 0])
    assert start_vector(of_regions[:, :1], 1, 2.0) == pytest.approx([0.81, 0, 0, 0])
    assert start_vector(-of_regions[:1, :1], 5, 3.0).tolist() == [0]
    assert start_vector(of_regions[:0], 5, 3.0).shape == (0,)


def test_equal_regions_share_their_weight() -> None:
    x, y = [1.0, 0.0], [0.0, 1.0]
    assert generalised_max_weights(np.array([[x]]), 1.0) == pytest.approx(np.array([[0.5]]))
    assert generalised_max_weights(np.array([[x, x, y]]), 1.0) == pytest.approx(np.array([[1 / 3, 1 / 3, 1 / 2]]))
    assert generalised_max_weights(np.zeros((0, 2, 5)), 1.0).shape == (0, 2)


def test_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **options: Any) -> Any:
        if name.startswith("scipy"):
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"pip install 'objemb\[methods\]'"):
        mutual_affinity(np.zeros((0, 3), np.int64), np.zeros((0, 3), np.float32), 3.0)
