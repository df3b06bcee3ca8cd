"""8-bit approximations of vectors: a quarter of the memory to read, with a proven bound on the error.

A row x is written as ``x = s c + e`` with integer codes c, a scale s of the row and a remainder e, and a query as
``q = t d + f``. By the Cauchy-Schwarz inequality

    |<q, x> - s t <d, c>|  =  |<q, e> + <f, s c>|  <=  |q| max|e| + |f| max|s c|

so integer products, which are several times faster than float products, prove for nearly every row that it cannot be
among the best. The few others are scored with the original vectors, so that the result is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from objemb.ops.products import TINY, Kernel, best_kernel
from objemb.types import Float32Array, FloatArray, Int8Array, Int64Array

#: Number of rows that are encoded at a time; few enough to stay in the processor's cache.
ROWS_PER_STEP = 4096
#: Float32 rounding in scaling a product of codes, relative to the largest score.
ROUNDING = 1e-6
#: Bytes of a cache line.
CACHE_LINE = 64


@dataclass(frozen=True, eq=False)
class Codes:
    """Encoded rows.

    Attributes:
        values: int8 ``(n, D)``.
        scales: float32 ``(n,)``, multiplies the values of a row.
        error: Largest length of a remainder e.
        reach: Largest length of a decoded row s c.
        kernel: The kernel that multiplies them exactly.
    """

    values: Int8Array
    scales: Float32Array
    error: float
    reach: float
    kernel: Kernel

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, eq=False)
class EncodedQueries:
    """Encoded query rows.

    Attributes:
        values: int8 ``(C, D)``.
        scales: float32 ``(C,)``, multiplies the values of a row.
        lengths: float32 ``(C,)``, length of each query row.
        remainders: float32 ``(C,)``, length of each remainder f.
    """

    values: Int8Array
    scales: Float32Array
    lengths: Float32Array
    remainders: Float32Array


def encode(vectors: FloatArray, kernel: Kernel | None = None) -> Codes:
    """Codes of float32 or float16 ``(n, D)`` vectors, read in steps; they take ``n (D + 4)`` bytes.

    Args:
        vectors: The rows.
        kernel: The kernel that will multiply them; by default the fastest on this machine.

    Raises:
        ValueError: A vector is not finite.
    """
    kernel = kernel or best_kernel()
    values = _aligned(vectors.shape)
    scales = np.empty(len(vectors), dtype=np.float32)
    error = reach = 0.0
    for start in range(0, len(vectors), ROWS_PER_STEP):
        here = slice(start, start + ROWS_PER_STEP)
        rows = np.ascontiguousarray(vectors[here], dtype=np.float32)
        values[here], scales[here], lengths, remainders = kernel.quantise(rows)
        longest = float(lengths.max())
        if not math.isfinite(longest):  # there would be no bound, and every row would be excluded
            raise ValueError(f"expected finite vectors, found others among rows {start} to {start + len(rows)}")
        reach, error = max(reach, longest), max(error, float(remainders.max()))
    return Codes(values, scales, error * (1 + ROUNDING) + TINY, reach * (1 + ROUNDING) + TINY, kernel)


def _aligned(shape: tuple[int, ...]) -> Int8Array:
    """Memory for codes, aligned to a cache line; products are slower with NumPy's own alignment."""
    size = math.prod(shape)
    memory = np.empty(size + CACHE_LINE, dtype=np.int8)
    start = -memory.ctypes.data % CACHE_LINE
    return memory[start : start + size].reshape(shape)


def encode_queries(queries: Float32Array, kernel: Kernel) -> EncodedQueries:
    """Codes of float32 ``(C, D)`` query rows, for products with codes of the same kernel."""
    values, scales, _, remainders = kernel.quantise(queries)
    remainders = (remainders * (1 + ROUNDING) + TINY).astype(np.float32)
    return EncodedQueries(values, scales, row_lengths(queries), remainders)


def code_scores(codes: Codes, rows: slice | Int64Array, queries: EncodedQueries) -> tuple[Float32Array, Float32Array]:
    """Approximate inner products of some rows with all queries.

    Returns:
        float32 ``(C, n)`` scores, and float32 ``(C,)`` bounds of their error.
    """
    scores = codes.kernel.products(queries.values, queries.scales, codes.values[rows], codes.scales[rows])
    slack = queries.lengths * (codes.error + ROUNDING * codes.reach) + queries.remainders * codes.reach
    return scores, (slack * (1 + ROUNDING)).astype(np.float32)


def row_lengths(rows: Float32Array) -> Float32Array:
    """float32 ``(C,)``: upper bounds of the lengths of ``(C, D)`` rows, at least :data:`~objemb.ops.products.TINY`,
    because the squares of smaller values would underflow."""
    lengths = np.sqrt(np.einsum("cd,cd->c", rows, rows, dtype=np.float64))
    above: Float32Array = (lengths * (1 + ROUNDING) + TINY).astype(np.float32)
    return above
