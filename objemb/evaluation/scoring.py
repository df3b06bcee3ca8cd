"""Complete rankings of a database, and what they are worth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from objemb.evaluation import metrics
from objemb.evaluation.described import Rows
from objemb.evaluation.protocol import Entry
from objemb.evaluation.task import Relevance, Task
from objemb.index.blocks import NO_HIT, Block
from objemb.index.exact import search_exact
from objemb.structures import Box

#: Places of complete rankings that are searched for at once.
PLACES_AT_ONCE = 1 << 20


@dataclass(frozen=True, eq=False)
class Ranking:
    """The complete answer to one query.

    Attributes:
        items: int64 ``(K,)``, database numbers, best first.
        boxes: float32 ``(K, 4)``, the matched box of each.
    """

    items: NDArray[np.int64]
    boxes: NDArray[np.float32]


@dataclass(frozen=True)
class Scores:
    """What rankings are worth.

    Attributes:
        means: Metric to its mean over the queries that count: ``mAP``, ``P@1``, ``P@5``, and the revisited
            ``mP@5``, ``mP@10``.
        queries: How many queries count.
        skipped: How many do not: nothing is relevant to them, or they could not be described.
        per_query: Per query its file, box, instances, average precision (None when skipped), and the rank of the first
            positive from 0 (None when there is none).
    """

    means: dict[str, float]
    queries: int
    skipped: int
    per_query: list[dict[str, Any]]


def rank_all(database: Rows, queries: Rows, num_items: int, num_queries: int) -> list[Ranking]:
    """The complete ranking of the database for each query, by exact search; a query without rows finds nothing."""
    block = Block(database.vectors, database.items)
    step = max(1, PLACES_AT_ONCE // max(1, num_items))
    rankings = []
    for first in range(0, num_queries, step):
        count = min(step, num_queries - first)
        here = slice(*np.searchsorted(queries.items, [first, first + count]))
        groups = queries.items[here] - first
        hits = search_exact([block], queries.vectors[here], groups, max(1, num_items), count=count)
        for items, rows in zip(hits.images, hits.rows, strict=True):
            found = items != NO_HIT
            rankings.append(Ranking(items[found], database.boxes[rows[found]]))
    return rankings


def score(task: Task, rankings: Sequence[Ranking], answered: Collection[int]) -> Scores:
    """Means over queries, and figures per query.

    Args:
        task: What was to be found.
        rankings: One per query.
        answered: Numbers of the queries that could be described; the others are skipped, they do not score 0.
    """
    relevance = task.relevance
    ranks = [
        metrics.ranks_without_junk(ranking.items, relevant.positives, relevant.junk)
        for ranking, relevant in zip(rankings, relevance, strict=True)
    ]
    positives = [len(r.positives) if number in answered else 0 for number, r in enumerate(relevance)]
    ranks = [r if n else r[:0] for r, n in zip(ranks, positives, strict=True)]
    mean_ap = metrics.mean_average_precision(ranks, positives)
    means = {"mAP": mean_ap.value}
    for name, metric, k in (
        ("P@1", metrics.precision_at_k, 1),
        ("P@5", metrics.precision_at_k, 5),
        ("mP@5", metrics.revisited_precision_at_k, 5),
        ("mP@10", metrics.revisited_precision_at_k, 10),
    ):
        means[name] = metrics.mean_over_queries(metric, ranks, positives, k=k).value
    per_query = [_figures(q, r, n) for q, r, n in zip(task.queries, ranks, positives, strict=True)]
    return Scores(means, mean_ap.queries, mean_ap.skipped, per_query)


def localise(task: Task, rankings: Sequence[Ranking], objects: Sequence[Entry]) -> metrics.Localisation:
    """How well the matched boxes of all true positives lie on the object.

    A matched box is compared with the best fitting of the true boxes of the query's instance in the photo that was
    found; photos without such a box are left out.

    Args:
        task: What was to be found, at image level.
        rankings: One per query.
        objects: The true boxes.
    """
    true_boxes: dict[tuple[str, str], list[Box]] = defaultdict(list)
    for entry in objects:
        for instance in entry.instances:
            if entry.box is not None:
                true_boxes[entry.file, instance].append(entry.box)
    boxes: list[NDArray[np.float32]] = []
    truths: list[Box] = []
    owners: list[int] = []
    for query, ranking, relevant in zip(task.queries, rankings, task.relevance, strict=True):
        for box, item in _true_positives(ranking, relevant):
            of_item = [b for i in query.instances for b in true_boxes.get((task.database[item].file, i), ())]
            truths += of_item
            owners += [len(boxes)] * len(of_item)
            boxes.append(box)
    return metrics.localisation(metrics.best_iou(boxes, truths, owners))


def _true_positives(ranking: Ranking, relevant: Relevance) -> list[tuple[NDArray[np.float32], int]]:
    found = np.isin(ranking.items, relevant.positives)
    return list(zip(ranking.boxes[found], ranking.items[found].tolist(), strict=True))


def _figures(query: Entry, ranks: NDArray[np.int64], num_positives: int) -> dict[str, Any]:
    return {
        "file": query.file,
        "box": None if query.box is None else list(query.box),
        "instances": list(query.instances),
        "average_precision": metrics.average_precision(ranks, num_positives) if num_positives else None,
        "first_rank": int(ranks[0]) if len(ranks) else None,
    }
