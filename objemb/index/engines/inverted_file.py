"""Exact search of visual words, which reads only rows that have a word in common with the query."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from objemb.index.engines.base import ByteOutput, Engine, OnProgress, Structure, ignored
from objemb.index.storage.blocks import checked_groups
from objemb.index.words import WordBlock, WordQueries
from objemb.ops.scored_pairs import GroupedHits, Pairs, top_images
from objemb.registry import plugin
from objemb.threads import usable_threads
from objemb.types import Buffer, Int64Array


@plugin
class InvertedFile(Engine[WordQueries, WordBlock]):
    """Compares a query with every row that has one of its words. The rows are stored as an inverted file, so that there
    is nothing to build. Rows without common words have the score 0 and are not returned.

    Each query row is searched in its own thread, block after block, with a sum for each row of the block, so that
    memory does not grow with the number of blocks.
    """

    accepts = frozenset({"visual_words"})
    exact = True

    def build(self, blocks: Sequence[WordBlock], on_progress: OnProgress = ignored) -> InvertedFileSearch:
        """A structure for any rows."""
        return InvertedFileSearch()

    def load(self, files: Mapping[str, Buffer]) -> InvertedFileSearch:
        """A structure for any rows; there are no files."""
        return InvertedFileSearch()


class InvertedFileSearch(Structure[WordQueries, WordBlock]):
    """Exact search of any blocks."""

    def search(
        self,
        queries: WordQueries,
        groups: Int64Array,
        k: int,
        blocks: Sequence[WordBlock],
        *,
        count: int | None = None,
    ) -> GroupedHits:
        """As :meth:`objemb.index.engines.base.Structure.search`, of whatever blocks."""
        groups, count = _checked(queries, groups, k, blocks, count)
        firsts = np.cumsum([0, *(len(b) for b in blocks)])

        def pairs_of(row: int) -> Pairs:
            return _best_of_row(queries, row, int(groups[row]), k, blocks, firsts)

        threads = min(usable_threads(), len(queries))
        if threads < 2:
            parts = [pairs_of(row) for row in range(len(queries))]
        else:
            with ThreadPoolExecutor(threads) as pool:
                parts = list(pool.map(pairs_of, range(len(queries))))
        return top_images(Pairs.cat(parts), count, k)

    def write(self, create: Callable[[str], ByteOutput]) -> None:
        """Writes nothing."""


def _best_of_row(
    queries: WordQueries, row: int, query: int, k: int, blocks: Sequence[WordBlock], firsts: Int64Array
) -> Pairs:
    """Pairs of a query row with rows of images, including those of its ``k`` best images."""
    parts = []
    least = -np.inf  # there are k images with at least this score
    for block, first in zip(blocks, firsts.tolist(), strict=False):
        scores = block.scores(queries, row)
        chosen = (scores != 0) & (scores >= least)
        if block.findable is not None:
            chosen &= block.findable
        rows = np.flatnonzero(chosen)
        best, images = scores[rows], block.images[rows]
        starts = np.flatnonzero(np.diff(images, prepend=images[:1] - 1))
        of_images = best if len(starts) == len(rows) else np.maximum.reduceat(best, starts)
        if len(of_images) > k:
            least = np.partition(of_images, -k)[-k]
            rows, best, images = (values[best >= least] for values in (rows, best, images))
        ones = np.ones(len(rows), np.int64)
        parts.append(Pairs(rows + first, row * ones, query * ones, images, best))
    return Pairs.cat(parts)


def _checked(
    queries: WordQueries, groups: Int64Array, k: int, blocks: Sequence[WordBlock], count: int | None
) -> tuple[Int64Array, int]:
    """Groups as int64 and the number of queries, or ``ValueError``."""
    checked = checked_groups(groups, len(queries), k, count)
    for block in blocks:
        if block.residuals.shape[1:] != queries.residuals.shape[1:]:
            raise ValueError(
                f"queries: expected residuals of width {block.residuals.shape[1]}, found {queries.residuals.shape[1]}"
            )
    return checked
