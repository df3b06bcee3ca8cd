"""Visual words of many rows, as an inverted file: who has a word, and with which residual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from objemb.checks import DamagedIndexError
from objemb.index import word_kernels
from objemb.index.blocks import Block, best_entries
from objemb.structures import MatchKernel
from objemb.types import (
    AnyArray,
    BoolArray,
    Float32Array,
    Float64Array,
    Int32Array,
    Int64Array,
    Uint32Array,
    Uint64Array,
)

#: Bits of the whole numbers that signs are packed in.
BITS = 64


@dataclass(frozen=True, eq=False)
class WordQueries:
    """The rows of queries in visual words.

    Attributes:
        starts: int64 ``(R + 1,)``, the first word of each row, and the number of words.
        words: int32 ``(M,)``, rising within a row.
        residuals: uint64 ``(M, ceil(D / 64))`` signs, see :func:`packed_in_64`; or float32 ``(M, D)``.
        weights: float64 ``(M,)``, the factor of each word.
        scales: float64 ``(R,)``, the factor of each row.
    """

    starts: Int64Array
    words: Int32Array
    residuals: AnyArray
    weights: Float64Array
    scales: Float64Array

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.scales)


@dataclass(frozen=True, eq=False)
class WordBlock(Block):
    """Rows of visual words, such as a segment of an index.

    Attributes:
        dim: Length D of the residuals.
        kernel: How they are compared.
        by_image: Whether each image has words in one row only, so that it may be found as long as any of its rows is
            alive.
        vocabulary: uint32 ``(V,)``, rising: the words that some row has.
        starts: int64 ``(V + 1,)``, the first posting of each of these words, and the number of postings.
        postings: uint32 ``(P,)``, the rows that have the word, rising within a word.
        residuals: ``(P, ceil(D / 64))`` uint64 signs, or ``(P, D)`` float16 or float32: of each posting.
        scales: float32 ``(n,)``, the factor of each row.
        images: As of :class:`Block`.
        alive: Likewise.

    Raises:
        DamagedIndexError: Words that do not rise, or numbers of postings that do not fit.
    """

    dim: int
    kernel: MatchKernel
    by_image: bool
    vocabulary: Uint32Array
    starts: Int64Array
    postings: Uint32Array
    residuals: AnyArray
    scales: Float32Array
    images: Int64Array
    alive: BoolArray | None = None

    def __post_init__(self) -> None:
        check_lists(self.vocabulary, self.starts, self.postings)

    def among(self, alive: BoolArray) -> WordBlock:
        """As :meth:`Block.among`."""
        return replace(self, alive=alive if self.alive is None else alive & self.alive)

    @cached_property
    def findable(self) -> BoolArray | None:
        """Which rows a search may return: bool ``(n,)``, None for all. Where an image has its words in one row, that
        row stands for all of its regions."""
        if self.alive is None or not self.by_image or not len(self):
            return self.alive
        first = np.flatnonzero(np.diff(self.images, prepend=self.images[0] - 1))
        return np.repeat(np.logical_or.reduceat(self.alive, first), np.diff(first, append=len(self)))

    def scores(self, queries: WordQueries, row: int, rows: slice | None = None) -> Float32Array:
        """The match kernel of a query row with rows of this block, float32: summed up in float64 and rounded once.

        Args:
            queries: The query rows.
            row: Which of them.
            rows: Rows of the block; all by default.

        Raises:
            DamagedIndexError: A posting is of a row that does not exist, or a score is not finite.
        """
        own = slice(int(queries.starts[row]), int(queries.starts[row + 1]))
        words = queries.words[own].astype(np.int64)
        at = np.searchsorted(self.vocabulary, words)
        known = np.flatnonzero(at < len(self.vocabulary))
        known = known[self.vocabulary[at[known]] == words[known]]
        first, last = self.starts[at[known]], self.starts[at[known] + 1]
        wanted = slice(0, len(self)) if rows is None else rows
        if rows is not None:
            first, last = (self._first_posting(first, last, limit) for limit in (rows.start, rows.stop))
        sums = np.zeros(wanted.stop - wanted.start)
        word_kernels.add_similarities(
            word_kernels.Lists(first, last, self.postings, self.residuals),
            queries.residuals[own][known],
            queries.weights[own][known],
            self.dim,
            self.kernel,
            sums,
            wanted.start,
        )
        with np.errstate(over="ignore", invalid="ignore"):
            scores: Float32Array = (sums * self.scales[wanted] * queries.scales[row]).astype(np.float32)
        if not np.isfinite(scores.sum(dtype=np.float64)):
            raise DamagedIndexError("expected residuals and scales that are finite, found others")
        return scores

    def pairs_of_image(
        self, rows: slice, best: tuple[float, int, int], queries: WordQueries, count: int
    ) -> list[tuple[float, int, int]]:
        """As :meth:`Block.pairs_of_image`. Only rows that have a word in common with a query row are given."""
        score, row, query_row = best
        if not count or (rows.stop - rows.start) * len(queries) < 2 or (self.by_image and len(queries) < 2):
            return [best]
        scores = np.stack([self.scores(queries, q, rows) for q in range(len(queries))], axis=1)
        scores[scores == 0] = -np.inf
        if self.findable is not None:
            scores[~self.findable[rows]] = -np.inf
        scores[row - rows.start, query_row] = -np.inf
        return [best, *((min(s, score), r, q) for s, r, q in best_entries(scores, rows.start, count))]

    def _first_posting(self, first: Int64Array, last: Int64Array, row: int) -> Int64Array:
        """For each of some lists, ``first`` to ``last``, its first posting of that row or a later one."""
        first, last = first.copy(), last.copy()
        while (open_ := first < last).any():
            middle = (first + last) // 2
            before = open_ & (self.postings[np.minimum(middle, len(self.postings) - 1)] < row)
            first = np.where(before, middle + 1, first)
            last = np.where(open_ & ~before, middle, last)
        return first


def check_lists(vocabulary: Uint32Array, starts: Int64Array, postings: Uint32Array) -> None:
    """Raise ``DamagedIndexError`` unless words rise and their lists are those of all postings, none of them empty."""
    if int(starts[0]) != 0 or int(starts[-1]) != len(postings):
        raise DamagedIndexError(
            f"expected {len(postings)} postings of words, found {int(starts[0])} to {int(starts[-1])}"
        )
    if (np.diff(vocabulary.astype(np.int64)) <= 0).any() or (np.diff(starts) <= 0).any():
        raise DamagedIndexError("expected words that rise, each with postings, found others")


def packed_in_64(signs: AnyArray, dim: int) -> Uint64Array:
    """Signs in whole numbers, uint64 ``(M, ceil(D / 64))``, from uint8 ``(M, ceil(D / 8))`` of :func:`np.packbits`.

    The order of their bytes is that in memory; padding is 0.
    """
    wide = np.zeros((len(signs), -(-dim // BITS) * BITS // 8), np.uint8)
    wide[:, : signs.shape[1]] = signs
    return wide.view(np.uint64)


def joined_queries(parts: Sequence[WordQueries]) -> WordQueries:
    """The rows of several queries, one after the other; at least one part."""
    ends = np.cumsum([0, *(len(p.words) for p in parts)])
    starts = [p.starts[:-1] + end for p, end in zip(parts, ends[:-1], strict=True)]
    return WordQueries(
        np.concatenate([*starts, ends[-1:]]),
        np.concatenate([p.words for p in parts]),
        np.concatenate([p.residuals for p in parts]),
        np.concatenate([p.weights for p in parts]),
        np.concatenate([p.scales for p in parts]),
    )
