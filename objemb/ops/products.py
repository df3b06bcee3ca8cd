"""Products of 8-bit codes and of floats, by NumPy or, where they are there, by PyTorch and Numba.

NumPy is the reference and always available, but for codes it is no faster than for floats. PyTorch multiplies 8-bit
integers several times faster where the processor has instructions for it (VNNI) and there are many query rows. A loop
that Numba compiles is faster for few query rows, and on processors without these instructions. Both are used only after
they have given the correct products of extreme and random codes. Search gives the same results without them.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import ModuleType

import numpy as np

from objemb.ops.numba import numba_library
from objemb.threads import usable_threads
from objemb.types import Float32Array, Float64Array, FloatArray, Int8Array, Int16Array

logger = logging.getLogger(__name__)

#: Rows whose largest value is below this are encoded as zeros, because the reciprocal of their scale would overflow.
TINY = 1e-20
#: Integers up to this, and hence sums of products up to this, are exact in float32.
EXACT_FLOAT32 = 1 << 24
#: Rows that all query rows are multiplied with in turn by a compiled loop, few enough to stay in the processor's cache.
ROWS_PER_BLOCK = 256
#: Products for which another thread is worth while, and parts for each thread, so that a busy one gets fewer.
PRODUCTS_PER_PART, PARTS_PER_THREAD = 1 << 23, 4


class Kernel(ABC):
    """Computes codes of rows, and their products.

    Attributes:
        largest_code: Products of codes from ``-largest_code`` to ``largest_code`` are exact.
        fast_codes: Whether products of codes take less time than those of floats.
    """

    largest_code: int
    fast_codes: bool

    @abstractmethod
    def products(
        self,
        queries: Int8Array,
        query_scales: Float32Array,
        rows: Int8Array,
        row_scales: Float32Array,
    ) -> Float32Array:
        """Inner products ``(C, n)`` of ``(C, D)`` codes with ``(n, D)`` codes, times the scales ``(C,)`` and ``(n,)``.

        The integer product is exact, rounded to float32 once, and multiplied by the scale of the row, then by that of
        the query, so that every kernel gives the same bits.
        """

    @abstractmethod
    def quantise(self, rows: Float32Array) -> tuple[Int8Array, Float32Array, FloatArray, FloatArray]:
        """Codes of ``(n, D)`` rows.

        Returns:
            int8 ``(n, D)`` codes, the same for all kernels with the same ``largest_code``; float32 ``(n,)`` scales by
            which they are multiplied; ``(n,)`` lengths of the decoded rows, and of the remainders. The lengths of rows
            that are not finite are not finite either.
        """


class NumpyKernel(Kernel):
    """Products of codes as products of floats, with as many columns at a time as keep every sum exact."""

    largest_code = 127
    fast_codes = False

    def products(
        self,
        queries: Int8Array,
        query_scales: Float32Array,
        rows: Int8Array,
        row_scales: Float32Array,
    ) -> Float32Array:
        """As :meth:`Kernel.products`."""
        # in any order of summation, all partial sums are integers that float32 represents exactly
        width = EXACT_FLOAT32 // 128**2
        dim = queries.shape[1]
        if dim <= width:
            scores = queries.astype(np.float32) @ rows.T.astype(np.float32)
        else:
            total = np.zeros((len(queries), len(rows)), dtype=np.int32)
            for start in range(0, dim, width):
                here = slice(start, start + width)
                part = queries[:, here].astype(np.float32) @ rows[:, here].T.astype(np.float32)
                total += part.astype(np.int32)
            scores = total.astype(np.float32)
        scores *= row_scales
        scores *= query_scales[:, None]
        return scores

    def quantise(self, rows: Float32Array) -> tuple[Int8Array, Float32Array, FloatArray, FloatArray]:
        """As :meth:`Kernel.quantise`."""
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            largest = np.abs(rows).max(axis=1, initial=0)
            scales = largest / np.float32(self.largest_code)
            inverse = np.where(largest > TINY, 1 / scales, np.float32(0))
            codes = np.rint(rows * inverse[:, None])
            values = codes.astype(np.int8)
            decoded = codes * scales[:, None]
            return values, scales, _lengths(decoded), _lengths(decoded - rows)


class TorchKernel(Kernel):
    """PyTorch's products, on as many threads as PyTorch uses.

    Kernels for processors without VNNI add two products in 16 bits, with one side shifted to be unsigned: 8-bit codes
    overflow there, 7-bit codes never do, because ``(63 + 128) * 63 * 2`` fits. The kernel is tested instead of relying
    on the type of processor.

    Raises:
        ImportError: PyTorch is not installed.
        RuntimeError: Its products of codes are wrong, or the function no longer exists.
    """

    fast_codes = True

    def __init__(self) -> None:
        import torch

        from objemb.ops.tensors import as_tensor

        self._torch = torch
        self._as_tensor = as_tensor
        for largest in (127, 63):
            self.largest_code = largest
            if _exact(self):
                return
        raise RuntimeError("expected exact products of 8-bit integers, found others")

    def products(
        self,
        queries: Int8Array,
        query_scales: Float32Array,
        rows: Int8Array,
        row_scales: Float32Array,
    ) -> Float32Array:
        """As :meth:`Kernel.products`."""
        left, right = self._as_tensor(queries), self._as_tensor(rows)
        # for a single column, the integer kernel returns uninitialised memory
        product = self._torch._int_mm if queries.shape[1] > 1 else lambda a, b: a.int() * b.int()
        products = product(left, right.T)
        scaled = products.float().mul_(self._as_tensor(row_scales)).mul_(self._as_tensor(query_scales)[:, None])
        scores: Float32Array = scaled.numpy()
        return scores

    def quantise(self, rows: Float32Array) -> tuple[Int8Array, Float32Array, FloatArray, FloatArray]:
        """As :meth:`Kernel.quantise`."""
        torch, given = self._torch, self._as_tensor(rows)
        largest = given.abs().amax(dim=1) if rows.shape[1] else torch.zeros(len(rows))
        scales = largest / self.largest_code
        inverse = torch.where(largest > TINY, 1 / scales, 0.0)
        codes = (given * inverse[:, None]).round_()
        values = codes.to(torch.int8)
        decoded = codes.mul_(scales[:, None])
        lengths = decoded.norm(dim=1).numpy()
        return values.numpy(), scales.numpy(), lengths, decoded.sub_(given).norm(dim=1).numpy()


class NumbaKernel(Kernel):
    """Loops that Numba compiles for each length of row, on as many threads as PyTorch uses.

    Numba turns products of 8-bit numbers, summed in 32 bits, into instructions that multiply and add pairs in 32 bits,
    which cannot overflow, so that codes have all 8 bits on every processor.

    Raises:
        ImportError: Numba is not installed, or refuses the installed NumPy.
        RuntimeError: Its products of codes are wrong.
    """

    largest_code = 127
    fast_codes = True

    def __init__(self) -> None:
        numba = numba_library("8-bit codes are multiplied")
        if numba is None:
            raise ImportError("expected Numba, found none that can be imported")
        self._numba = numba
        self._loops: dict[int, Callable[..., None]] = {}
        self._quantise = _compiled_quantise(numba)
        if not _exact(self):
            raise RuntimeError("expected exact products of 8-bit integers, found others")

    def products(
        self,
        queries: Int8Array,
        query_scales: Float32Array,
        rows: Int8Array,
        row_scales: Float32Array,
    ) -> Float32Array:
        """As :meth:`Kernel.products`."""
        count, dim = queries.shape
        if dim not in self._loops:
            self._loops[dim] = _compiled_products(self._numba, dim)
        loop, widened = self._loops[dim], queries.astype(np.int16)
        scores = np.empty((count, len(rows)), np.float32)

        def part(first: int, last: int) -> None:
            loop(rows[first:last], row_scales[first:last], widened, query_scales, scores[:, first:last])

        _in_parts(part, len(rows), count * dim)
        return scores

    def quantise(self, rows: Float32Array) -> tuple[Int8Array, Float32Array, FloatArray, FloatArray]:
        """As :meth:`Kernel.quantise`."""
        values, scales = np.empty(rows.shape, np.int8), np.empty(len(rows), np.float32)
        lengths, remainders = np.empty(len(rows)), np.empty(len(rows))
        self._quantise(rows, np.float32(self.largest_code), values, scales, lengths, remainders)
        return values, scales, lengths, remainders


def _compiled_products(numba: ModuleType, dim: int) -> Callable[..., None]:
    """A loop over rows of ``dim`` codes; a constant number of columns is unrolled, which halves the time of short
    rows."""

    @numba.njit(nogil=True)  # type: ignore[untyped-decorator]  # Numba has no types
    def loop(
        rows: Int8Array, row_scales: Float32Array, queries: Int16Array, query_scales: Float32Array, scores: Float32Array
    ) -> None:
        for first in range(0, len(rows), ROWS_PER_BLOCK):
            last = min(first + ROWS_PER_BLOCK, len(rows))
            for query in range(len(queries)):
                for row in range(first, last):
                    total = np.int32(0)
                    for column in range(dim):  # each step back to 32 bits, else Numba sums in 64
                        term = np.int32(np.int32(rows[row, column]) * np.int32(queries[query, column]))
                        total = np.int32(total + term)
                    scores[query, row] = np.float32(total) * row_scales[row] * query_scales[query]

    compiled: Callable[..., None] = loop
    return compiled


def _compiled_quantise(numba: ModuleType) -> Callable[..., None]:
    """Codes, scales, lengths of decoded rows and of remainders, written into the last four arguments."""
    tiny, one = np.float32(TINY), np.float32(1)

    @numba.njit(nogil=True)  # type: ignore[untyped-decorator]  # Numba has no types
    def loop(
        rows: Float32Array,
        largest_code: np.float32,
        values: Int8Array,
        scales: Float32Array,
        lengths: Float64Array,
        remainders: Float64Array,
    ) -> None:
        for row in range(len(rows)):
            largest = np.float32(0)
            for column in range(rows.shape[1]):
                largest = max(largest, abs(rows[row, column]))
            scale = np.float32(largest / largest_code)
            inverse = one / scale if largest > tiny else np.float32(0)
            length = remainder = 0.0
            for column in range(rows.shape[1]):
                code = np.rint(rows[row, column] * inverse)
                values[row, column] = np.int8(code)
                decoded = code * scale
                length += np.float64(decoded) ** 2
                remainder += np.float64(decoded - rows[row, column]) ** 2
            scales[row], lengths[row], remainders[row] = scale, np.sqrt(length), np.sqrt(remainder)

    compiled: Callable[..., None] = loop
    return compiled


def _in_parts(work: Callable[[int, int], None], rows: int, cost: int) -> None:
    """Call ``work(first, last)`` for parts of some rows, on several threads if it is enough work.

    Args:
        work: Lets other threads run while it works.
        rows: Number of rows.
        cost: Products for each of them.
    """
    torch = sys.modules.get("torch")
    threads = usable_threads() if torch is None else torch.get_num_threads()
    parts = min(PARTS_PER_THREAD * threads, rows * cost // PRODUCTS_PER_PART) if threads > 1 else 1
    if parts < 2:
        work(0, rows)
        return
    ends = [rows * part // parts for part in range(parts + 1)]
    for done in [_pool(os.getpid(), threads).submit(work, *ends[at : at + 2]) for at in range(parts)]:
        done.result()


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """The threads of a process: one that was forked has none of those of its parent."""
    return ThreadPoolExecutor(threads, "products")


@cache
def compiled_kernel() -> Kernel | None:
    """The kernel of Numba, None without it. Importing and compiling take a second at the first call."""
    try:
        return NumbaKernel()
    except ImportError:
        pass
    except Exception as error:  # a compiler may fail in any way
        logger.info("products of codes are not computed by Numba: %s", error)
    return None


def best_kernel() -> Kernel:
    """The fastest kernel with correct products among those that need no compiler.

    That of PyTorch if it is already imported, or if there is no Numba to take its place after some searches: importing
    it takes seconds, and with CUDA's libraries 600 MiB of memory, which a service of an exported model has no other use
    for.
    """
    if "torch" in sys.modules or importlib.util.find_spec("numba") is None:
        return _torch_kernel() or _NUMPY
    return _NUMPY


@cache
def _torch_kernel() -> Kernel | None:
    """The kernel of PyTorch, None without it, or if it is wrong."""
    try:
        return TorchKernel()
    except ImportError:
        pass
    except Exception as error:  # a private function may change in any way
        logger.info("products of codes are computed by NumPy: %s", error)
    return None


_NUMPY = NumpyKernel()


def float_products(queries: Float32Array, rows: Float32Array) -> Float32Array:
    """Inner products ``(C, n)`` of ``(C, D)`` query rows with ``(n, D)`` rows; not finite where a row is not.

    Computed by PyTorch if it is already imported, because NumPy's BLAS has its own threads besides PyTorch's, which
    makes it several times slower on a busy machine. PyTorch is not imported for this; that takes longer than a search.
    """
    if sys.modules.get("torch") is None:
        with np.errstate(invalid="ignore", over="ignore"):
            return queries @ rows.T
    from objemb.ops.tensors import as_tensor

    left, right = as_tensor(queries), as_tensor(rows)
    if len(left) == 1:  # some BLAS are much slower for one column than for two
        return (right @ left.repeat(2, 1).T)[:, :1].T.contiguous().numpy()
    return (right @ left.T).T.contiguous().numpy()


def _exact(kernel: Kernel) -> bool:
    """Whether products of codes equal those of the reference, for the largest codes and for random ones of odd
    shapes."""
    top = kernel.largest_code
    extreme = np.full((64, 64), top, dtype=np.int8)
    random = np.random.default_rng(0).integers(-top, top + 1, (117, 150), dtype=np.int8)
    pairs = [(sign * extreme[:c], extreme) for c in (1, 2, 64) for sign in (1, -1)]
    pairs += [(random[:c, :d].copy(), random[c:, :d].copy()) for c, d in ((1, 1), (3, 2), (5, 37), (64, 150))]
    ones = np.ones(117, dtype=np.float32)
    products = ([k.products(a, ones[: len(a)], b, ones[: len(b)]) for k in (kernel, _NUMPY)] for a, b in pairs)
    return all(np.array_equal(product, right) for product, right in products)


def _lengths(rows: Float32Array) -> Float64Array:
    lengths: Float64Array = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    return lengths
