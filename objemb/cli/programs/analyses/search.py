"""What the vectors of one network are worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from objemb.cli.programs.analyses.features import LayerRows, View
from objemb.cli.programs.analyses.settings import SUM, Look
from objemb.evaluation.metrics import average_precisions
from objemb.evaluation.retrieval_task import RetrievalTask
from objemb.layers.whitening import Whitening
from objemb.ops.normalize import l2

#: Similarities that are held at once.
SCORES_AT_ONCE = 1 << 25


class Searches:
    """Searches of a task with the vectors of one network.

    One decomposition gives all dimensions: those of a smaller one are the first of a larger. A whitening is fitted on
    the regions that count: for a sum, without those of the items' own boxes.

    Args:
        rows: Of the set: items are the database, and behind it the queries.
        sample: Of other photos, by the same views, to fit whitenings on; empty for none. Items are their photos, or
            their objects.
        task: What is to be found in what.
    """

    def __init__(self, rows: Mapping[View, LayerRows], sample: Mapping[View, LayerRows], task: RetrievalTask) -> None:
        self.items, self.queries = len(task.database), len(task.queries)
        self._rows = {view: found.of(range(self.items)) for view, found in rows.items()}
        self._asked = {view: found.of(range(self.items, self.items + self.queries)) for view, found in rows.items()}
        self._sample = sample
        self._spaces: dict[tuple[View, bool], Whitening] = {}
        self._positives, self._junk = (np.zeros((self.queries, self.items), dtype=bool) for _ in range(2))
        for number, relevant in enumerate(task.relevance):
            self._positives[number, relevant.positives] = True
            self._junk[number, relevant.junk] = True

    def rank(self, layer: str, look: Look) -> int:
        """The most dimensions that there are: channels of the layer, or what its whitening found to vary."""
        view = View(layer, look.kind, look.pooling)
        space = self._space(view, look)
        return self._rows[view].vectors.shape[1] if space is None else space.dim

    def precisions(self, layer: str, look: Look, dims: Sequence[int]) -> Iterator[NDArray[np.float64]]:
        """Average precision ``(Q,)`` of the queries at each dimension."""
        view = View(layer, look.kind, look.pooling)
        space = self._space(view, look)
        stored, sought = self._rows[view], self._asked[View(layer, look.asked, look.pooling)]
        stored, sought = (LayerRows(_projected(r.vectors, space), r.items) for r in (stored, sought))
        for dim in dims:
            rows, queries = (LayerRows(l2(r.vectors[:, :dim]), r.items) for r in (stored, sought))
            if look.matching == SUM:
                rows = summed(rows)
            scores = best_scores(rows, summed(queries), self.items, self.queries)
            yield ranked_precisions(scores, self._positives, self._junk)

    def _space(self, view: View, look: Look) -> Whitening | None:
        if view not in self._sample:
            return None
        key = (view, look.matching == SUM)
        if key not in self._spaces:
            sample = self._sample[view]
            self._spaces[key] = _fitted(view, (joining(sample) if look.matching == SUM else sample).vectors)
        return self._spaces[key]


def joining(rows: LayerRows) -> LayerRows:
    """The rows that join the sum of their item: all but the first, its own box, which stands for it where it is
    alone."""
    _, counts = rows.items.unique_consecutive(return_counts=True)
    kept = torch.ones(len(rows.items), dtype=torch.bool)
    kept[(counts.cumsum(0) - counts)[counts > 1]] = False
    return LayerRows(rows.vectors[kept], rows.items[kept])


def summed(rows: LayerRows) -> LayerRows:
    """One row per item: the sum of those that join it."""
    rows = joining(rows)
    items, counts = rows.items.unique_consecutive(return_counts=True)
    place = torch.arange(len(items)).repeat_interleave(counts)
    total = torch.zeros(len(items), rows.vectors.shape[1]).index_add_(0, place, rows.vectors)
    return LayerRows(l2(total), items)


def best_scores(rows: LayerRows, queries: LayerRows, items: int, count: int) -> NDArray[np.float32]:
    """float32 ``(count, items)``: the best of each item's rows for each query, of which there is one row at most.

    ``-inf`` for items without rows, NaN for queries without.
    """
    scores = torch.full((count, items), float("nan"))
    step = max(1, SCORES_AT_ONCE // max(1, len(rows.items)))
    for numbers, vectors in zip(queries.items.split(step), queries.vectors.split(step), strict=True):
        places = rows.items.expand(len(numbers), -1)
        blank = torch.full((len(numbers), items), float("-inf"))
        scores[numbers] = blank.scatter_reduce(1, places, vectors @ rows.vectors.T, "amax")
    return np.asarray(scores.numpy())


def ranked_precisions(
    scores: NDArray[np.float32], positives: NDArray[np.bool_], junk: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Average precision of the rankings by scores; of equal scores the lower item comes first.

    Args:
        scores: float ``(Q, N)``: of each item of the database for each query; ``-inf`` for one that is not ranked, NaN
            throughout the row of a query that could not be asked.
        positives: bool ``(Q, N)``, what should be found.
        junk: bool ``(Q, N)``, what is left out of the ranking.

    Returns:
        float64 ``(Q,)``; NaN for a query without positives or without scores.
    """
    for name, array in (("positives", positives), ("junk", junk)):
        if array.shape != scores.shape:
            raise ValueError(f"{name}: expected shape {scores.shape}, found {array.shape}")
    relevant = positives & ~junk
    order = np.argsort(-np.where(junk, -np.inf, scores), axis=1, kind="stable")  # junk comes last and moves no rank
    right = np.take_along_axis(relevant & np.isfinite(scores), order, axis=1)
    answered = ~np.isnan(scores).any(axis=1)
    return average_precisions(right, num_positives=relevant.sum(axis=1) * answered)


def _projected(vectors: Tensor, space: Whitening | None) -> Tensor:
    return vectors if space is None else space.map(vectors)


def _fitted(view: View, vectors: Tensor) -> Whitening:
    name = f"whitening of {view.kind}, {view.layer}, {view.pooling}"
    try:
        return Whitening.fit(vectors, fitted_on=name)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
