from __future__ import annotations

import numpy as np
import pytest
import torch

from objemb.index.engines import _codes as codes
from objemb.index.engines._codes import code_scores, encode, encode_queries
from objemb.index.storage.errors import DamagedIndexError
from tests.index.searching import unit_rows


@pytest.mark.parametrize("largest", [None, 63])  # None: that of this processor, where 8-bit products may overflow
@pytest.mark.parametrize("kind", ["unit", "long", "one_hot", "half", "tiny"])
def test_no_score_is_off_by_more_than_the_bound(
    kind: str, largest: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if largest is not None:
        monkeypatch.setattr(codes, "largest_code", lambda: largest)
    random = np.random.default_rng(0)
    rows = unit_rows(random, 5000, 24)
    rows = {
        "unit": rows,
        "long": rows * random.uniform(0, 100, size=(5000, 1)).astype(np.float32),
        "one_hot": np.eye(24, dtype=np.float32)[random.integers(24, size=5000)],
        "half": rows.astype(np.float16),
        "tiny": rows * np.float32(1e-25),
    }[kind]
    queries = unit_rows(random, 9, 24) * 5
    scores, slack = code_scores(encode(rows), slice(0, 5000), encode_queries(torch.from_numpy(queries)))
    exact = queries.astype(np.float64) @ rows.astype(np.float64).T
    assert np.all(np.abs(scores.numpy() - exact) <= slack.numpy()[:, None])
    assert scores.shape == (9, 5000)


def test_the_bound_is_of_use() -> None:
    rows = unit_rows(np.random.default_rng(1), 1000, 128)
    _, slack = code_scores(encode(rows), slice(0, 1000), encode_queries(torch.from_numpy(rows[:3])))
    assert slack.max() < 0.05


def test_a_choice_of_rows() -> None:
    rows = torch.tensor([5, 2, 7])
    encoded, queries = encode(np.eye(8, dtype=np.float32)), encode_queries(torch.eye(8)[2:3])
    assert code_scores(encoded, rows, queries)[0].numpy() == pytest.approx(np.array([[0.0, 1.0, 0.0]]), abs=1e-6)


@pytest.mark.parametrize("shape", [(0, 4), (3, 1), (1, 4)])
def test_small_shapes(shape: tuple[int, int]) -> None:
    rows = np.ones(shape, np.float32)
    scores, _ = code_scores(encode(rows), slice(0, shape[0]), encode_queries(torch.ones(1, shape[1])))
    assert scores.numpy() == pytest.approx(np.full((1, shape[0]), shape[1]), rel=1e-5)


def test_zero_rows_stay_zero() -> None:
    encoded = encode(np.zeros((2, 3), np.float32))
    assert max(encoded.error, encoded.reach) < 1e-15
    assert not encoded.values.any()


def test_products_of_the_largest_codes_are_exact() -> None:
    largest = codes.largest_code()
    for count in (1, 5, 64):
        left = torch.full((count, 256), largest, dtype=torch.int8)
        right = torch.full((300, 256), -largest, dtype=torch.int8)
        assert torch.equal(torch._int_mm(left, right.T), torch.full((count, 300), -256 * largest**2, dtype=torch.int32))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite_have_no_codes(wrong: float) -> None:
    rows = np.zeros((9000, 4), np.float32)
    rows[5000, 1] = wrong
    with pytest.raises(DamagedIndexError, match="found others among rows 4096 to 8192"):
        encode(rows)
