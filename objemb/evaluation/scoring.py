"""Metrics of rankings, as defined by the protocol of a task."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from objemb.datasets.evaluation_set import SetEntry
from objemb.datasets.protocols import Setup, figure
from objemb.evaluation import metrics
from objemb.evaluation.ranks import RankedItems
from objemb.evaluation.retrieval_task import RetrievalTask
from objemb.structures import Box
from objemb.types import BoolArray, Float32Array, Float64Array, Int64Array

#: The metric that is not a mean over queries.
GAP = "GAP"


@dataclass(frozen=True, eq=False)
class SetupRanks:
    """Ranks of the positives of each query under one setup.

    Attributes:
        ranks: For each query int64 ``(F,)``, ascending, from 0, without junk; empty for a query that does not count.
        num_positives: For each query, the number of its positives; 0 for a query that does not count.
    """

    ranks: list[Int64Array]
    num_positives: list[int]

    @property
    def queries(self) -> int:
        """Number of queries that count."""
        return sum(n > 0 for n in self.num_positives)


@dataclass(frozen=True)
class Scores:
    """Metrics of rankings.

    Attributes:
        means: The mean of each metric over the queries that count, by the name in the protocol: ``mAP``, ``P@1`` ...;
            with several setups, followed by the setup: ``mAP medium``.
        queries: Number of queries that count under the main setup.
        skipped: Number of queries that do not: nothing is relevant to them, or they could not be described.
        per_query: For each query its file, box, instances, and under the main setup ``average_precision`` (trapezoid
            rule; None if skipped), ``first_rank`` (rank of the first positive from 0, None if there is none) and
            ``positives``; with several setups, ``setups`` holds these by name.
        setups: The ranks that the metrics are computed from, by setup.
    """

    means: dict[str, float]
    queries: int
    skipped: int
    per_query: list[dict[str, Any]]
    setups: Mapping[str, SetupRanks]


@dataclass(frozen=True, eq=False)
class Guesses:
    """The best image of each query, without junk, for metrics that compare scores across queries.

    Attributes:
        scores: float ``(Q,)``; -inf for a query without results.
        correct: bool ``(Q,)``, whether the image is a positive.
    """

    scores: Float64Array
    correct: BoolArray


@dataclass(frozen=True, eq=False)
class Located:
    """Matched boxes of true positives whose true box is known.

    Attributes:
        queries: int64 ``(N,)``, index of the query.
        items: int64 ``(N,)``, index of the image.
        boxes: float32 ``(N, 4)``, the matched box, xyxy in original pixels.
        truths: float64 ``(N, 4)``, the true box with the largest IoU.
        ious: float64 ``(N,)``, 0 to 1.
    """

    queries: Int64Array
    items: Int64Array
    boxes: Float32Array
    truths: Float64Array
    ious: Float64Array

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def figures(self) -> metrics.Localisation:
        """Mean IoU and CorLoc."""
        return metrics.localisation(self.ious)


def listed_items(task: RetrievalTask) -> list[Int64Array]:
    """For each query, the database indices whose places :func:`score` needs, ascending: all positives and junk."""
    of_setups = [task.relevance_in(setup) for setup in task.protocol.setups]
    return [
        np.unique(np.concatenate([part for r in relevant for part in (r.positives, r.junk)]))
        for relevant in zip(*of_setups, strict=True)
    ]


def score(
    task: RetrievalTask, ranked: Sequence[RankedItems], answered: Collection[int], guesses: Guesses | None = None
) -> Scores:
    """Means over queries, and metrics of each query.

    Args:
        task: The retrieval task.
        ranked: The places of at least :func:`listed_items`, for each query.
        answered: Indices of the queries that could be described. The others are left out, like those without
            positives.
        guesses: The best image of each query, for protocols with the metric ``GAP``.
    """
    protocol = task.protocol
    setups = {setup.name: _ranks(task, setup, ranked, answered) for setup in protocol.setups}
    means: dict[str, float] = {}
    for metric in protocol.metrics:
        for setup in protocol.setups:
            of_setup = setups[setup.name]
            means[figure(metric, setup)] = (
                _gap(guesses, of_setup)
                if metric == GAP
                else metrics.scored(metric, of_setup.ranks, of_setup.num_positives)
            )
    main = setups[protocol.main]
    per_query = [_figures(query, number, setups, protocol.main) for number, query in enumerate(task.queries)]
    return Scores(means, main.queries, len(task.queries) - main.queries, per_query, setups)


def locate(task: RetrievalTask, ranked: Sequence[RankedItems], objects: Sequence[SetEntry]) -> Located:
    """How well the matched boxes of all true positives agree with the true boxes.

    A matched box is compared with the true box of the query's instance in the same photo that has the largest IoU.
    Photos without a true box, and the query's own photo, are left out.

    Args:
        task: The retrieval task, at image level.
        ranked: The places of at least :func:`listed_items`, for each query.
        objects: The true boxes.
    """
    known_boxes = true_boxes(objects)
    places: list[tuple[int, int]] = []
    boxes: list[Float32Array] = []
    truths: list[Box] = []
    owners: list[int] = []
    for number, (query, of_query, relevant) in enumerate(zip(task.queries, ranked, task.relevance, strict=True)):
        positives = of_query.of(np.setdiff1d(relevant.positives, task.own_photos[number]))
        for box, item in zip(positives.boxes, positives.items.tolist(), strict=True):
            of_item = [b for i in query.instances for b in known_boxes.get((task.database[item].file, i), ())]
            if of_item and not np.isnan(box).any():
                truths += of_item
                owners += [len(boxes)] * len(of_item)
                boxes.append(box)
                places.append((number, item))
    return _located(places, boxes, truths, owners)


def true_boxes(objects: Sequence[SetEntry]) -> Mapping[tuple[str, str], list[Box]]:
    """The true boxes of each pair of a photo's file and an instance; pairs without any are left out."""
    boxes: dict[tuple[str, str], list[Box]] = {}
    for entry in objects:
        for instance in entry.instances:
            if entry.box is not None:
                boxes.setdefault((entry.file, instance), []).append(entry.box)
    return boxes


def _located(places: list[tuple[int, int]], boxes: list[Float32Array], truths: list[Box], owners: list[int]) -> Located:
    matched, true = np.array(boxes, np.float32).reshape(-1, 4), np.array(truths, np.float64).reshape(-1, 4)
    whose = np.array(owners, dtype=np.int64)
    pairs = metrics.best_iou(matched[whose], true, np.arange(len(true)))
    order = np.lexsort((-pairs, whose))  # stable: the first of equal ones
    _, first = np.unique(whose[order], return_index=True)
    best = order[first]
    queries, items = np.array(places, dtype=np.int64).reshape(-1, 2).T
    return Located(queries, items, matched, true[best], pairs[best])


def _ranks(task: RetrievalTask, setup: Setup, ranked: Sequence[RankedItems], answered: Collection[int]) -> SetupRanks:
    relevance = task.relevance_in(setup)
    counts = [len(r.positives) if number in answered else 0 for number, r in enumerate(relevance)]
    ranks = [
        of_query.ranks(relevant.positives, relevant.junk) if count else np.zeros(0, np.int64)
        for of_query, relevant, count in zip(ranked, relevance, counts, strict=True)
    ]
    return SetupRanks(ranks, counts)


def _gap(guesses: Guesses | None, ranks: SetupRanks) -> float:
    if guesses is None:
        raise ValueError("guesses: expected the best image of each query for GAP, found none")
    return metrics.global_average_precision(guesses.scores, guesses.correct, ranks.queries)


def _figures(query: SetEntry, number: int, setups: Mapping[str, SetupRanks], main: str) -> dict[str, object]:
    by_setup = {name: _found(s.ranks[number], s.num_positives[number]) for name, s in setups.items()}
    return {
        "file": query.file,
        "box": None if query.box is None else list(query.box),
        "instances": list(query.instances),
        **by_setup[main],
        **({"setups": by_setup} if len(setups) > 1 else {}),
    }


def _found(ranks: Int64Array, num_positives: int) -> dict[str, object]:
    return {
        "average_precision": metrics.average_precision(ranks, num_positives) if num_positives else None,
        "first_rank": int(ranks[0]) if len(ranks) else None,
        "positives": num_positives,
    }
