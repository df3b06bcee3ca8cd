"""Visual words of many rows, as an inverted file: who has a word, and with which residual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from objemb.checks import DamagedIndexError
from objemb.index import word_kernels
from objemb.index.storage.blocks import Block
from objemb.ops.scored_pairs import ScoredPair, with_next_best
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

    def scores(self, queries: WordQueries, row: int, rows: Int64Array | None = None) -> Float32Array:
        """The match kernel of a query row with rows of this block, float32: summed up in float64 and rounded once.

        Args:
            queries: The query rows.
            row: Which of them.
            rows: int64 ``(n,)``, rows of the block, each once; all by default.

        Raises:
            DamagedIndexError: A posting is of a row that does not exist, or a score is not finite.
        """
        own = slice(int(queries.starts[row]), int(queries.starts[row + 1]))
        words = queries.words[own].astype(np.int64)
        at = np.searchsorted(self.vocabulary, words)
        known = np.flatnonzero(at < len(self.vocabulary))
        known = known[self.vocabulary[at[known]] == words[known]]
        lists = word_kernels.Lists(self.starts[at[known]], self.starts[at[known] + 1], self.postings, self.residuals)
        if rows is not None:
            lists = lists.of_rows(rows, len(self))
        scales = self.scales if rows is None else self.scales[rows]
        sums = np.zeros(len(scales))
        word_kernels.add_similarities(
            lists, queries.residuals[own][known], queries.weights[own][known], self.dim, self.kernel, sums
        )
        with np.errstate(over="ignore", invalid="ignore"):
            scores: Float32Array = (sums * scales * queries.scales[row]).astype(np.float32)
        if not np.isfinite(scores.sum(dtype=np.float64)):
            raise DamagedIndexError("expected residuals and scales that are finite, found others")
        return scores

    def pairs_of_images(
        self, images: Sequence[slice], best: Sequence[ScoredPair], queries: WordQueries, count: int
    ) -> list[list[ScoredPair]]:
        """As :meth:`Block.pairs_of_images`. Only rows that have a word in common with a query row are given."""
        pairs = [[first] for first in best]
        several = [n for n, rows in enumerate(images) if (rows.stop - rows.start) * len(queries) > 1]
        if not count or not several or (self.by_image and len(queries) < 2):
            return pairs
        rows = np.concatenate([np.arange(images[n].start, images[n].stop) for n in several])
        scores = np.stack([self.scores(queries, q, rows) for q in range(len(queries))], axis=1)
        scores[scores == 0] = -np.inf
        if self.findable is not None:
            scores[~self.findable[rows]] = -np.inf
        ends = np.cumsum([images[n].stop - images[n].start for n in several])
        for n, of_image in zip(several, np.split(scores, ends[:-1]), strict=True):
            pairs[n] = with_next_best(best[n], of_image, images[n].start, count)
        return pairs


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
