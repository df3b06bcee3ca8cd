"""8-bit stand-ins for vectors: a quarter of the memory to read, with a proven bound on the error.

A row x is written as ``x = s c + e`` with integer codes c, a scale s of its own and a remainder e; a query likewise as
``q = t d + f``. By Cauchy and Schwarz

    |<q, x> - s t <d, c>|  =  |<q, e> + <f, s c>|  <=  |q| max|e| + |f| max|s c|

so integer products, which processors do several times faster than float ones, prove of nearly every row that it cannot
be among the best. The few that remain are scored from the vectors themselves: the result is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from objemb.index.storage.errors import DamagedIndexError
from objemb.ops.arrays import as_tensor

#: Rows that are encoded at once; few enough to stay in the processor's cache.
ROWS_PER_STEP = 4096
#: Float32 rounding in scaling a product of codes, relative to the largest score.
ROUNDING = 1e-6
#: Rows whose largest value is below this are written as zeros (the reciprocal of their scale would overflow), and no
#: length is trusted to be smaller (the squares of such small numbers underflow).
TINY = 1e-20


@dataclass(frozen=True, eq=False)
class Codes:
    """Encoded rows.

    Attributes:
        values: int8 ``(n, D)``.
        scales: float32 ``(n,)``, multiplies the values of a row.
        error: Largest length of a remainder e.
        reach: Largest length of a decoded row s c.
    """

    values: Tensor
    scales: Tensor
    error: float
    reach: float

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

    values: Tensor
    scales: Tensor
    lengths: Tensor
    remainders: Tensor


def encode(vectors: NDArray[np.floating]) -> Codes:
    """Codes of float32 or float16 ``(n, D)`` vectors, read in steps; they take ``n (D + 4)`` bytes.

    Raises ``DamagedIndexError`` for vectors that are not finite.
    """
    values = torch.empty(vectors.shape, dtype=torch.int8)
    scales = torch.empty(len(vectors))
    error = reach = 0.0
    for start in range(0, len(vectors), ROWS_PER_STEP):
        here = slice(start, start + ROWS_PER_STEP)
        rows = as_tensor(np.ascontiguousarray(vectors[here], dtype=np.float32))
        values[here], scales[here], decoded = _quantise(rows)
        longest = float(decoded.norm(dim=1).max())
        if not math.isfinite(longest):  # the bound would be none, and every row would be ruled out
            raise DamagedIndexError(f"expected finite vectors, found others among rows {start} to {start + len(rows)}")
        reach = max(reach, longest)
        error = max(error, float(decoded.sub_(rows).norm(dim=1).max()))
    return Codes(values, scales, error * (1 + ROUNDING) + TINY, reach * (1 + ROUNDING) + TINY)


def encode_queries(queries: Tensor) -> EncodedQueries:
    """Codes of float32 ``(C, D)`` query rows."""
    values, scales, decoded = _quantise(queries)
    return EncodedQueries(values, scales, queries.norm(dim=1) + TINY, (queries - decoded).norm(dim=1) + TINY)


def code_scores(codes: Codes, rows: slice | Tensor, queries: EncodedQueries) -> tuple[Tensor, Tensor]:
    """Approximate inner products of some rows with all queries.

    Returns:
        float32 ``(C, n)`` scores, and float32 ``(C,)`` bounds of their error.
    """
    if codes.values.shape[1] > 1:
        products = torch._int_mm(queries.values, codes.values[rows].T)
    else:  # the integer kernel answers with what it finds in memory
        products = queries.values.int() * codes.values[rows].T.int()
    scores = products.float().mul_(codes.scales[rows]).mul_(queries.scales[:, None])
    slack = queries.lengths * (codes.error + ROUNDING * codes.reach) + queries.remainders * codes.reach
    return scores, slack * (1 + ROUNDING)


@cache
def largest_code() -> int:
    """127 where integer products are exact, else 63.

    Kernels for processors without VNNI add two products in 16 bits, one side shifted to be unsigned: 8-bit codes
    overflow there, 7-bit codes never do, as ``(63 + 128) * 63 * 2`` fits. Asking the kernel is surer than knowing it.
    """
    extreme = torch.full((64, 64), 127, dtype=torch.int8)
    products = [torch._int_mm(sign * extreme[:c], extreme) * sign for c in (1, 2, 64) for sign in (1, -1)]
    return 127 if all(bool((p == 64 * 127 * 127).all()) for p in products) else 63


def _quantise(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """int8 codes, float32 scales and the decoded rows of float32 ``(n, D)`` rows."""
    largest = rows.abs().amax(dim=1) if rows.shape[1] else torch.zeros(len(rows))
    scales = largest / largest_code()
    inverse = torch.where(largest > TINY, 1 / scales, 0.0)
    codes = (rows * inverse[:, None]).round_()
    return codes.to(torch.int8), scales, codes.mul_(scales[:, None])
