"""All kernels against integers of 64 bits and against each other; which of them is chosen."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from objemb.index.engines.exact import search_exact
from objemb.index.storage.blocks import VectorBlock
from objemb.ops import products
from objemb.ops.int8_codes import encode
from objemb.ops.products import (
    Kernel,
    NumbaKernel,
    NumpyKernel,
    TorchKernel,
    best_kernel,
    compiled_kernel,
    float_products,
)
from tests.index.searching import assert_same, unit_rows


@pytest.fixture(params=[NumpyKernel, TorchKernel, NumbaKernel], scope="module")
def kernel(request: pytest.FixtureRequest) -> Kernel:
    if request.param is NumbaKernel:
        pytest.importorskip("numba")
    made: Kernel = request.param()
    return made


def ones(rows: np.ndarray) -> np.ndarray:
    return np.ones(len(rows), dtype=np.float32)


@pytest.mark.parametrize("dim", [1, 2, 37, 1024, 1025, 3000])
@pytest.mark.parametrize("count", [1, 5, 64])
def test_products_of_codes_are_those_of_integers(kernel: Kernel, dim: int, count: int) -> None:
    """Extreme codes too, whose sums float32 does not hold beyond 1040 columns: those are rounded once."""
    random, top = np.random.default_rng(dim), kernel.largest_code
    for draw in ("random", "extreme", "opposite"):
        left = random.integers(-top, top + 1, (count, dim), dtype=np.int8)
        right = random.integers(-top, top + 1, (70, dim), dtype=np.int8)
        if draw != "random":
            left[:], right[:] = top, top if draw == "extreme" else -top
            right[0, 0] = 1  # an odd number, which float32 has to round where the sum is large
        expected = (left.astype(np.int64) @ right.astype(np.int64).T).astype(np.float32)
        np.testing.assert_array_equal(kernel.products(left, ones(left), right, ones(right)), expected)


def test_scales_are_multiplied_in_one_order(kernel: Kernel) -> None:
    random = np.random.default_rng(0)
    left, right = random.integers(-63, 64, (5, 40), dtype=np.int8), random.integers(-63, 64, (90, 40), dtype=np.int8)
    scales = random.random(5, dtype=np.float32), random.random(90, dtype=np.float32)
    numpy, other = (k.products(left, scales[0], right, scales[1]) for k in (NumpyKernel(), kernel))
    np.testing.assert_array_equal(numpy, other)
    expected = (left.astype(np.float64) @ right.T.astype(np.float64)) * scales[0][:, None] * scales[1]
    np.testing.assert_allclose(numpy, expected, rtol=1e-6)


@pytest.mark.parametrize("largest", [63, 127])
def test_codes_are_the_same(kernel: Kernel, largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    rows = unit_rows(random, 500, 33) * random.uniform(0, 9, (500, 1)).astype(np.float32)
    rows[3], rows[4] = 0, 1e-30
    rows[5], rows[5, :3] = 0, (2 * largest, 1, 3)  # halves are rounded to even
    rows.setflags(write=False)  # as a mapped file
    numpy = NumpyKernel()
    numpy.largest_code = largest
    monkeypatch.setattr(kernel, "largest_code", largest)
    mine, theirs = numpy.quantise(rows), kernel.quantise(rows)
    for exact, other in zip(mine[:2], theirs[:2], strict=True):
        assert exact.dtype == other.dtype
        np.testing.assert_array_equal(exact, other)
    for length, other in zip(mine[2:], theirs[2:], strict=True):
        np.testing.assert_allclose(length, other, rtol=1e-6, atol=1e-20)
    values, scales, lengths, remainders = mine
    decoded = values.astype(np.float64) * scales[:, None]
    assert np.abs(values).max() == largest
    assert values[5, :3].tolist() == [largest, 0, 2]
    np.testing.assert_allclose(lengths, np.linalg.norm(decoded, axis=1), rtol=1e-6)
    np.testing.assert_allclose(remainders, np.linalg.norm(rows - decoded, axis=1), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("rows", [1, 255, 257, 1000])
def test_parts_on_several_threads_are_put_together(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    monkeypatch.setattr(products, "PRODUCTS_PER_PART", 100)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    random = np.random.default_rng(rows)
    left, right = random.integers(-127, 128, (3, 20), dtype=np.int8), random.integers(-127, 128, (rows, 20), np.int8)
    of_left, of_right = random.random(3, np.float32), random.random(rows, np.float32)
    expected = NumpyKernel().products(left, of_left, right, of_right)
    np.testing.assert_array_equal(NumbaKernel().products(left, of_left, right, of_right), expected)


def test_an_error_in_one_part_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    def work(first: int, last: int) -> None:
        if first:
            raise MemoryError("not enough")

    with pytest.raises(MemoryError, match="not enough"):
        products._in_parts(work, 1 << 20, 64)


@pytest.mark.parametrize("count", [1, 2, 9])
@pytest.mark.parametrize("with_torch", [True, False])
def test_products_of_floats(count: int, with_torch: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not with_torch:
        monkeypatch.setitem(sys.modules, "torch", None)
    random = np.random.default_rng(0)
    queries, rows = unit_rows(random, count, 50), unit_rows(random, 300, 50)
    rows.setflags(write=False)  # as a mapped file
    products = float_products(queries, rows)
    assert (products.dtype, products.shape, products.flags.c_contiguous) == (np.float32, (count, 300), True)
    np.testing.assert_allclose(products, queries.astype(np.float64) @ rows.T.astype(np.float64), atol=1e-6)


def test_search_finds_the_same_with_every_kernel(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    vectors = unit_rows(random, 4000, 24)
    vectors[random.integers(4000, size=900)] = vectors[0]  # ties
    block = VectorBlock(vectors, np.arange(4000) // 3, random.random(4000) < 0.8)
    queries, groups = unit_rows(random, 90, 24), np.arange(90) // 4
    coded = [replace(block, codes=encode(vectors, made)) for made in (NumpyKernel(), kernel)]
    found = [search_exact([b], queries, groups, 12) for b in (block, *coded)]
    monkeypatch.setitem(sys.modules, "torch", None)
    found.append(search_exact([block], queries, groups, 12))
    for hits in found[1:]:
        assert_same(hits, found[0])
        np.testing.assert_array_equal(hits.scores, found[0].scores)


@pytest.fixture
def afresh() -> object:
    """The kernel of PyTorch, not remembered."""
    products._torch_kernel.cache_clear()
    yield
    products._torch_kernel.cache_clear()


def test_the_kernel_of_torch_where_it_is_imported(afresh: object) -> None:
    assert isinstance(best_kernel(), TorchKernel)
    assert best_kernel().largest_code in (63, 127)


def test_without_torch(afresh: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert isinstance(best_kernel(), NumpyKernel)


@pytest.mark.parametrize(("numba", "kernel"), [("there", NumpyKernel), (None, TorchKernel)])
def test_torch_is_imported_only_where_nothing_can_be_compiled(
    afresh: object, monkeypatch: pytest.MonkeyPatch, numba: str | None, kernel: type[Kernel]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: numba)
    monkeypatch.delitem(sys.modules, "torch")
    with monkeypatch.context() as patch:
        patch.setattr(products.TorchKernel, "__init__", lambda self: None)
        assert type(best_kernel()) is kernel


def test_a_private_function_that_is_gone(afresh: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "_int_mm")
    assert isinstance(best_kernel(), NumpyKernel)


def test_products_that_overflow_get_smaller_codes_or_another_kernel(
    afresh: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on processors that add pairs of products in 16 bits; and a kernel that is always wrong."""
    right = torch._int_mm

    def overflowing(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        large = max(int(a.abs().max()), int(b.abs().max())) > 63
        return right(a, b) - int(large)

    monkeypatch.setattr(torch, "_int_mm", overflowing)
    assert best_kernel().largest_code == 63
    products._torch_kernel.cache_clear()
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: right(a, b) + 1)
    assert isinstance(best_kernel(), NumpyKernel)


def test_the_compiled_kernel_only_where_it_can_be_compiled_and_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    compiled_kernel.cache_clear()
    try:
        assert isinstance(compiled_kernel(), NumbaKernel)
        for name, error in (("_compiled_products", ValueError("no compiler")), ("numba_library", None)):
            compiled_kernel.cache_clear()
            with monkeypatch.context() as patch:

                def fails(*given: object, error: Exception | None = error) -> None:
                    if error is not None:
                        raise error

                patch.setattr(products, name, fails)
                assert compiled_kernel() is None
        right = NumbaKernel.products
        compiled_kernel.cache_clear()
        monkeypatch.setattr(NumbaKernel, "products", lambda self, *given: right(self, *given) + 1)
        assert compiled_kernel() is None
    finally:
        compiled_kernel.cache_clear()
