"""Sums of similarities over the lists of an inverted file, by NumPy or, where it is installed, by Numba.

A sum is over the words that a row has in common with the query, in the order of the words, in float64, term by term:
so both give the same bits, and rows of the same words the same score wherever they stand. NumPy takes 6 to 20
nanoseconds for a posting of 128 bits, Numba 1.5 to 5 and is the faster one at every length of list. But it takes a
second to be imported and to compile, so it is asked only once NumPy has worked for as long as that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np

from objemb.checks import DamagedIndexError
from objemb.ops.numba import numba_library
from objemb.structures import MatchKernel
from objemb.types import AnyArray, Float64Array, FloatArray, Int64Array, Uint32Array, Uint64Array

logger = logging.getLogger(__name__)

#: Postings that NumPy compares at once: few enough for the processor's cache.
POSTINGS_PER_STEP = 1 << 14
#: Postings of a word from which NumPy copies its list by itself.
LONG_LIST = 256
#: Postings that Numba compares before it adds their similarities up.
COMPILED_STEP = 1 << 10
#: Postings that NumPy compares before Numba is compiled.
COMPILE_AFTER = 1 << 27


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

    def of_rows(self, rows: Int64Array, count: int) -> Lists:
        """The postings of some rows, numbered by their places in ``rows``.

        Args:
            rows: int64 ``(n,)``, each once, in any order.
            count: How many rows there are.

        Raises:
            DamagedIndexError: A posting is of a row that does not exist.
        """
        wanted = np.zeros(count, bool)
        wanted[rows] = True
        words, chosen = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for step in _steps(self):
            postings = step.gathered(self.postings)
            if len(postings) and int(postings.max()) >= count:
                raise _outside()
            here = np.flatnonzero(wanted[postings])
            chosen.append(step.places[here])
            words.append(step.words.start + np.searchsorted(np.cumsum(step.lengths), here, side="right"))
        numbers = np.concatenate(chosen)
        place = np.zeros(count, np.uint32)
        place[rows] = np.arange(len(rows))
        lengths = np.bincount(np.concatenate(words), minlength=len(self.first))
        last = np.cumsum(lengths)
        postings, residuals = place[self.postings[numbers]], self.residuals[numbers]
        postings.flags.writeable = residuals.flags.writeable = False  # as what is mapped, else Numba compiles twice
        return Lists(last - lengths, last, postings, residuals)


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
) -> None:
    """Add ``weight * sigma(<u, v>)`` of each posting to the sum of its row.

    Args:
        lists: Those of M words.
        residuals: Of the query in each of these words, ``(M, B)`` uint64 or ``(M, D)`` float32.
        weights: float64 ``(M,)``.
        dim: D.
        kernel: With sigma.
        sums: float64 ``(n,)``, of all rows; added to.

    Raises:
        DamagedIndexError: A posting is of another row. Some may have been added by then.
    """
    if kernel.binary:
        _add_signs(lists, residuals, weights, kernel.sigma((dim - 2 * np.arange(dim + 1)) / dim), sums)
        return
    for step in _steps(lists):
        part = step.gathered(lists.residuals).astype(np.float64)
        asked = np.broadcast_to(step.repeated(residuals), part.shape).astype(np.float64)
        similarities = np.einsum("pd,pd->p", part, asked)  # row by row: equal rows have equal similarities
        _add(step.gathered(lists.postings), step.repeated(weights) * kernel.sigma(similarities), sums)


def _add_signs(lists: Lists, residuals: AnyArray, weights: Float64Array, table: FloatArray, sums: Float64Array) -> None:
    """The same of signs, where ``table`` has sigma for each number of signs that differ."""
    loop = _compiled.loop(int((lists.last - lists.first).sum()))
    if loop is not None:
        ranges = lists.first, lists.last, lists.postings, lists.residuals
        if not loop(*ranges, residuals, weights, table, sums):
            raise _outside()
        return
    for step in _steps(lists):
        part = step.gathered(lists.residuals)
        distances = np.zeros(len(part), np.intp)
        for column in range(part.shape[1]):  # along the postings, since a row is short
            distances += np.bitwise_count(part[:, column] ^ step.repeated(residuals[:, column]))
        if len(distances) and int(distances.max()) >= len(table):
            raise _outside()
        _add(step.gathered(lists.postings), step.repeated(weights) * table.take(distances), sums)


@dataclass(frozen=True, eq=False)
class _Step:
    """Postings that are compared at once: of one word, or all those of several words.

    Attributes:
        words: Numbers of these words.
        first: int64, the first posting of each.
        lengths: int64, the number of its postings.
    """

    words: slice
    first: Int64Array
    lengths: Int64Array

    def gathered(self, values: AnyArray) -> AnyArray:
        """The values of these postings, one after the other; of one word a view."""
        ranges = zip(self.first.tolist(), (self.first + self.lengths).tolist(), strict=True)
        if len(self.first) == 1:
            return values[slice(*next(ranges))]
        if len(self.places) >= LONG_LIST * len(self.first):
            return np.concatenate([values[first:last] for first, last in ranges])
        return values.take(self.places, axis=0)

    def repeated(self, values: AnyArray) -> AnyArray:
        """The value of the word of each of these postings; of one word it alone, to be broadcast."""
        here = values[self.words]
        return here if len(here) == 1 else np.repeat(here, self.lengths, axis=0)

    @cached_property
    def places(self) -> Int64Array:
        """The number of each of these postings."""
        ends = np.cumsum(self.lengths)
        places = np.repeat(self.first - (ends - self.lengths), self.lengths)
        places += np.arange(len(places))
        return places


def _steps(lists: Lists) -> Iterator[_Step]:
    """The postings in turn: of many short lists at once, of a long list alone."""
    lengths = lists.last - lists.first
    ends = np.cumsum(lengths)
    word = 0
    while word < len(lengths):
        before = ends[word] - lengths[word]
        stop = max(int(np.searchsorted(ends, before + POSTINGS_PER_STEP, side="right")), word + 1)
        words = slice(word, stop)
        if stop > word + 1 or lengths[word] <= POSTINGS_PER_STEP:
            yield _Step(words, lists.first[words], lengths[words])
        else:
            for first in range(int(lists.first[word]), int(lists.last[word]), POSTINGS_PER_STEP):
                count = min(POSTINGS_PER_STEP, int(lists.last[word]) - first)
                yield _Step(words, np.array([first]), np.array([count]))
        word = stop


def _add(postings: AnyArray, similarities: FloatArray, sums: Float64Array) -> None:
    if len(postings) and int(postings.max()) >= len(sums):
        raise _outside()
    np.add.at(sums, postings.astype(np.intp), similarities)


def _outside() -> DamagedIndexError:
    return DamagedIndexError("expected postings of rows of their segment, and signs of its length, found others")


def compiled_loop() -> Callable[..., bool] | None:
    """The sums of binary residuals as a compiled loop that lets other threads run; None where Numba cannot make it.

    Called with ``(first, last, postings, residuals, query residuals, weights, table, sums)``; false where a
    posting is of another row or has more signs than the table.
    """
    numba = numba_library("visual words are compared")
    if numba is None:
        return None

    @numba.extending.intrinsic  # type: ignore[untyped-decorator]  # Numba has no types
    def ones(_: Any, number: Any) -> Any:
        """Number of bits that are set."""
        return number(number), lambda context, builder, signature, values: builder.ctpop(values[0])

    @numba.njit(nogil=True)  # type: ignore[untyped-decorator]  # Numba has no types
    def loop(
        first: Int64Array,
        last: Int64Array,
        postings: Uint32Array,
        residuals: Uint64Array,
        asked: Uint64Array,
        weights: Float64Array,
        table: Float64Array,
        sums: Float64Array,
    ) -> bool:
        width, limit, rows = residuals.shape[1], np.uint32(len(table)), np.uint32(len(sums))
        distances = np.empty(COMPILED_STEP, np.uint32)
        weighted = np.empty(len(table))
        for word in range(len(first)):
            long = last[word] - first[word] >= len(table)
            if long:
                for distance in range(len(table)):
                    weighted[distance] = weights[word] * table[distance]
            for start in range(first[word], last[word], COMPILED_STEP):
                count = min(COMPILED_STEP, last[word] - start)
                codes, numbers = residuals[start : start + count], postings[start : start + count]
                if width == 2:  # in a loop of its own, which the compiler turns into vector instructions
                    left, right = asked[word, 0], asked[word, 1]
                    for at in range(count):
                        distances[at] = ones(codes[at, 0] ^ left) + ones(codes[at, 1] ^ right)
                else:
                    distances[:count] = 0
                    for column in range(width):
                        code = asked[word, column]
                        for at in range(count):
                            distances[at] += ones(codes[at, column] ^ code)
                outside = False
                for at in range(count):
                    outside |= (distances[at] >= limit) | (numbers[at] >= rows)
                if outside:
                    return False
                if long:
                    for at in range(count):
                        sums[numbers[at]] += weighted[distances[at]]
                else:
                    for at in range(count):
                        sums[numbers[at]] += weights[word] * table[distances[at]]
        return True

    try:
        one = np.zeros(1, np.int64)
        readonly = np.zeros(1, np.uint32), np.zeros((1, 1), np.uint64)
        for array in readonly:
            array.flags.writeable = False
        loop(one, one, *readonly, np.zeros((1, 1), np.uint64), np.zeros(1), np.zeros(65), np.zeros(1))
    except Exception as error:  # a compiler may fail in any way
        logger.info("visual words are compared by NumPy: %s", error)
        return None
    compiled: Callable[..., bool] = loop
    return compiled
