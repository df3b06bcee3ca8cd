from __future__ import annotations

import numpy as np
import pytest
import torch

from objemb.ops.tensors import l2
from objemb.rerank._expansion import mean_with_neighbours, rank_weights, similarity_weights, unit_rows

MISSING = -np.inf


def array(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


def test_weights_of_similarities_by_hand() -> None:
    found = similarity_weights(array([0.5, -0.5, 0.0, MISSING]), 3)
    assert found.tolist() == [[0.125, 0, 0, 0]]
    assert similarity_weights(array([0.5, -0.5, 0.0, MISSING]), 0).tolist() == [[1, 1, 1, 0]]
    assert found.dtype == np.float32


def test_weights_of_ranks_by_hand() -> None:
    assert rank_weights(array([0.9, 0.8, 0.7, 0.6], [0.9, MISSING, MISSING, MISSING])).tolist() == [
        [1, 0.75, 0.5, 0.25],
        [1, 0, 0, 0],
    ]
    assert rank_weights(np.zeros((3, 0), np.float32)).shape == (3, 0)


def test_the_mean_by_hand() -> None:
    vectors, neighbours = array([1, 0]), array([0, 1], [0, -1])[None]
    weights = array([1, 0.5])
    assert mean_with_neighbours(vectors, neighbours, weights, normalise=False) == pytest.approx(array([0.4, 0.2]))
    assert mean_with_neighbours(vectors, neighbours, weights, normalise=True) == pytest.approx(array([2, 1]) / 5**0.5)
    assert mean_with_neighbours(vectors, neighbours[:, :0], weights[:, :0], normalise=True).tolist() == [[1, 0]]


def test_many_at_once_and_shared_neighbours() -> None:
    rng = np.random.default_rng(0)
    vectors, weights = rng.standard_normal((4, 3)).astype(np.float32), rng.random((4, 5)).astype(np.float32)
    own = rng.standard_normal((4, 5, 3)).astype(np.float32)
    for neighbours in (own, own[:1]):
        found = mean_with_neighbours(vectors, neighbours, weights, normalise=False)
        for i in range(4):
            total = vectors[i].copy()
            for j in range(5):
                total += weights[i, j] * neighbours[min(i, len(neighbours) - 1), j]
            assert found[i] == pytest.approx(total / (1 + weights[i].sum()), abs=1e-5)


def test_what_cancels_stays_zero() -> None:
    assert mean_with_neighbours(array([1, 0]), array([-1, 0])[None], array([1]), normalise=True).tolist() == [[0, 0]]


def test_unit_rows_are_those_of_pytorch() -> None:
    rows = np.random.default_rng(0).standard_normal((20, 7)).astype(np.float32)
    rows[3], rows[4], rows[5] = 0, 1e-30, 1e30
    found = unit_rows(rows)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, l2(torch.from_numpy(rows)).numpy(), atol=1e-7)
    assert found[3].tolist() == [0] * 7
    assert unit_rows(np.zeros((2, 0), np.float32)).shape == (2, 0)
