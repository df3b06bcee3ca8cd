"""Sums of similarities over the lists of an inverted file, by NumPy or, where it is installed, by Numba.

A sum is over the words that a row has in common with the query, in the order of the words, in float64, term by term:
so both give the same bits, and rows of the same words the same score wherever they stand. NumPy takes 6 to 20
nanoseconds for a posting of 128 bits, Numba 2. But it takes a second to be imported and to compile, so it is asked only
once NumPy has done as much work as that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np

from objemb.index.storage.errors import DamagedIndexError
from objemb.structures import MatchKernel
from objemb.types import AnyArray, Float64Array, FloatArray, Int64Array, Uint32Array

logger = logging.getLogger(__name__)

#: Postings that NumPy compares at once: few enough for the processor's cache.
POSTINGS_PER_STEP = 1 << 14
#: Postings that NumPy compares before Numba is compiled.
COMPILE_AFTER = 1 << 26


@dataclass(frozen=True, eq=False)
class Lists:
    """The lists of some words.

    Attributes:
        first: int64 ``(M,)``, the first posting of each.
        last: int64 ``(M,)``, the one behind its last.
        postings: uint32 ``(P,)``, rows.
        residuals: uint64 ``(P, B)`` signs, or float ``(P, D)``.
    """

    first: Int64Array
    last: Int64Array
    postings: Uint32Array
    residuals: AnyArray


class _Compiled:
    """The compiled loop, once there is a reason to have it."""

    def __init__(self) -> None:
        self._done, self._lock = 0, Lock()
        self._asked = False
        self._loop: Callable[..., bool] | None = None

    def loop(self, postings: int) -> Callable[..., bool] | None:
        """The loop, or None. Counts the postings that are to be compared."""
        with self._lock:
            self._done += postings
            if not self._asked and self._done > COMPILE_AFTER:
                self._asked, self._loop = True, compiled_loop()
        return self._loop


_compiled = _Compiled()


def add_similarities(
    lists: Lists,
    residuals: AnyArray,
    weights: Float64Array,
    dim: int,
    kernel: MatchKernel,
    sums: Float64Array,
    first_row: int,
) -> None:
    """Add ``weight * sigma(<u, v>)`` of each posting to the sum of its row.

    Args:
        lists: Those of M words.
        residuals: Of the query in each of these words, ``(M, B)`` uint64 or ``(M, D)`` float32.
        weights: float64 ``(M,)``.
        dim: D.
        kernel: With sigma.
        sums: float64 ``(n,)``, of the rows from ``first_row`` on; added to.
        first_row: The row that the first sum is of.

    Raises:
        DamagedIndexError: A posting is of another row. Some may have been added by then.
    """
    if kernel.binary:
        _add_signs(lists, residuals, weights, kernel.sigma((dim - 2 * np.arange(dim + 1)) / dim), sums, first_row)
        return
    for step in _steps(lists, len(residuals)):
        part = lists.residuals[step.postings].astype(np.float64)
        asked = np.broadcast_to(residuals[step.words], part.shape).astype(np.float64)
        similarities = np.einsum("pd,pd->p", part, asked)  # row by row: equal rows have equal similarities
        _add(lists, step, weights, kernel.sigma(similarities), sums, first_row)


def _add_signs(
    lists: Lists, residuals: AnyArray, weights: Float64Array, table: FloatArray, sums: Float64Array, first_row: int
) -> None:
    """The same of signs, where ``table`` has sigma for each number of signs that differ."""
    loop = _compiled.loop(int((lists.last - lists.first).sum()))
    if loop is not None:
        ranges = lists.first, lists.last, lists.postings, lists.residuals
        if not loop(*ranges, residuals, weights, table, sums, first_row):
            raise _outside()
        return
    for step in _steps(lists, len(residuals)):
        part, asked = lists.residuals[step.postings], residuals[step.words]
        distances = np.zeros(len(part), np.intp)
        for column in range(part.shape[1]):
            distances += np.bitwise_count(part[:, column] ^ asked[..., column])
        if len(distances) and int(distances.max()) >= len(table):
            raise _outside()
        _add(lists, step, weights, table[distances], sums, first_row)


@dataclass(frozen=True, eq=False)
class _Step:
    """Some postings, and the number of the word of each; either may be one for all."""

    postings: slice | Int64Array
    words: int | Int64Array


def _steps(lists: Lists, count: int) -> Iterator[_Step]:
    """The postings in turn: of many short lists at once, of a long list alone."""
    lengths = lists.last - lists.first
    ends = np.cumsum(lengths)
    word = 0
    while word < count:
        if lengths[word] * 2 > POSTINGS_PER_STEP:
            for start in range(int(lists.first[word]), int(lists.last[word]), POSTINGS_PER_STEP):
                yield _Step(slice(start, min(start + POSTINGS_PER_STEP, int(lists.last[word]))), word)
            word += 1
            continue
        before = int(ends[word] - lengths[word])
        stop = int(np.searchsorted(ends, before + POSTINGS_PER_STEP, side="right"))
        here = np.arange(word, max(stop, word + 1))
        shifts = lists.first[here] - (ends[here] - lengths[here] - before)
        of_word = np.repeat(here, lengths[here])
        yield _Step(np.repeat(shifts, lengths[here]) + np.arange(len(of_word)), of_word)
        word = int(here[-1]) + 1


def _add(
    lists: Lists, step: _Step, weights: Float64Array, similarities: FloatArray, sums: Float64Array, first_row: int
) -> None:
    rows = lists.postings[step.postings].astype(np.intp) - first_row
    if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= len(sums)):
        raise _outside()
    np.add.at(sums, rows, weights[step.words] * similarities)


def _outside() -> DamagedIndexError:
    return DamagedIndexError("expected postings of rows of their segment, and signs of its length, found others")


def compiled_loop() -> Callable[..., bool] | None:
    """The sums of binary residuals as a compiled loop that lets other threads run; None where Numba cannot make it.

    Called with ``(first, last, postings, residuals, query residuals, weights, table, sums, first row)``; false where a
    posting is of another row or has more signs than the table.
    """
    try:
        import numba
        from numba.extending import intrinsic
    except ImportError:
        return None
    except Exception as error:  # it refuses versions of NumPy that it does not know
        logger.info("visual words are compared by NumPy: %s", error)
        return None

    @intrinsic  # type: ignore[untyped-decorator]
    def ones(_: Any, number: Any) -> Any:
        """Number of bits that are set."""
        return number(number), lambda context, builder, signature, values: builder.ctpop(values[0])

    @numba.njit(nogil=True)  # type: ignore[untyped-decorator]
    def loop(
        first: Any,
        last: Any,
        postings: Any,
        residuals: Any,
        asked: Any,
        weights: Any,
        table: Any,
        sums: Any,
        shift: int,
    ) -> bool:
        width = residuals.shape[1]
        for word in range(len(first)):
            for at in range(first[word], last[word]):
                distance: Any = 0
                for column in range(width):
                    distance += np.int64(ones(residuals[at, column] ^ asked[word, column]))
                row = np.int64(postings[at]) - shift
                if row < 0 or row >= len(sums) or distance >= len(table):
                    return False
                sums[row] += weights[word] * table[distance]
        return True

    try:
        one = np.zeros(1, np.int64)
        readonly = np.zeros(1, np.uint32), np.zeros((1, 1), np.uint64)
        for array in readonly:
            array.flags.writeable = False
        loop(one, one, *readonly, np.zeros((1, 1), np.uint64), np.zeros(1), np.zeros(65), np.zeros(1), 0)
    except Exception as error:  # a compiler may fail in any way
        logger.info("visual words are compared by NumPy: %s", error)
        return None
    compiled: Callable[..., bool] = loop
    return compiled
