from __future__ import annotations

import numpy as np
import pytest

from objemb.ops.int8_codes import code_scores, encode, encode_queries
from objemb.ops.products import Kernel, NumbaKernel, NumpyKernel, TorchKernel
from tests.index.searching import unit_rows


@pytest.fixture(params=["numpy", "torch", "torch, 7 bits", "numba"], scope="module")
def kernel(request: pytest.FixtureRequest) -> Kernel:
    """NumPy's, PyTorch's, PyTorch's with the codes of a processor whose 8-bit products may overflow, and Numba's."""
    if request.param == "numpy":
        return NumpyKernel()
    if request.param == "numba":
        pytest.importorskip("numba")
        return NumbaKernel()
    made = TorchKernel()
    made.largest_code = 63 if "7" in request.param else made.largest_code
    return made


@pytest.mark.parametrize("kind", ["unit", "long", "one_hot", "half", "tiny"])
def test_no_score_is_off_by_more_than_the_bound(kind: str, kernel: Kernel) -> None:
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
    scores, slack = code_scores(encode(rows, kernel), slice(0, 5000), encode_queries(queries, kernel))
    exact = queries.astype(np.float64) @ rows.astype(np.float64).T
    assert np.all(np.abs(scores - exact) <= slack[:, None])
    assert scores.shape == (9, 5000)


def test_the_bound_is_of_use(kernel: Kernel) -> None:
    rows = unit_rows(np.random.default_rng(1), 1000, 128)
    _, slack = code_scores(encode(rows, kernel), slice(0, 1000), encode_queries(rows[:3], kernel))
    assert slack.max() < 0.05


def test_a_choice_of_rows(kernel: Kernel) -> None:
    rows, eye = np.array([5, 2, 7]), np.eye(8, dtype=np.float32)
    scores, _ = code_scores(encode(eye, kernel), rows, encode_queries(eye[2:3], kernel))
    assert scores == pytest.approx(np.array([[0.0, 1.0, 0.0]]), abs=1e-6)


@pytest.mark.parametrize("shape", [(0, 4), (3, 1), (1, 4)])
def test_small_shapes(shape: tuple[int, int], kernel: Kernel) -> None:
    rows, query = np.ones(shape, np.float32), np.ones((1, shape[1]), np.float32)
    scores, _ = code_scores(encode(rows, kernel), slice(0, shape[0]), encode_queries(query, kernel))
    assert scores == pytest.approx(np.full((1, shape[0]), shape[1]), rel=1e-5)


def test_zero_rows_stay_zero(kernel: Kernel) -> None:
    encoded = encode(np.zeros((2, 3), np.float32), kernel)
    assert max(encoded.error, encoded.reach) < 1e-15
    assert not encoded.values.any()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite_have_no_codes(wrong: float, kernel: Kernel) -> None:
    rows = np.zeros((9000, 4), np.float32)
    rows[5000, 1] = wrong
    with pytest.raises(ValueError, match="found others among rows 4096 to 8192"):
        encode(rows, kernel)
