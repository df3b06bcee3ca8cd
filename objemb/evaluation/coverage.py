"""Whether the regions of a database cover the objects that are searched for: misses of detectors, not of vectors."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from objemb.datasets.evaluation_set import SetEntry
from objemb.evaluation import metrics
from objemb.evaluation.ranks import RankedItems
from objemb.evaluation.retrieval_task import RetrievalTask
from objemb.evaluation.scoring import true_boxes
from objemb.ops.boxes import iou
from objemb.ops.tensors import as_tensor
from objemb.structures import Box, ImageRows, ImageWords
from objemb.types import Float32Array, Int64Array

#: Smallest IoU of an object with a region that covers it.
COVERED = 0.5


@dataclass(frozen=True)
class Coverage:
    """How well the indexed regions cover the true boxes of what is searched for.

    Attributes:
        recall: Share of the objects with a region whose IoU is at least 0.5; the whole photo counts as a region.
        mean_iou: Mean of the largest IoU of each object with a region.
        objects: Number of objects: pairs of a photo and an instance that is relevant to a query in another photo. Of
            several boxes of an instance in a photo, the best covered one counts.
        covered_map: mAP if photos whose object no region covers are left out of the ranking. Its difference to 1 is the
            part of the embedding, its difference to the mAP that of missing regions.
        queries: Number of queries of which a relevant photo is left.
        missed_map: mAP of the photos whose object no region covers, if the other relevant photos are left out: how well
            such photos are found by their other regions, such as the whole photo.
        missed_first: Share of the queries in which such a photo is first then.
        missed_queries: Number of queries to which such a photo is relevant.
    """

    recall: float
    mean_iou: float
    objects: int
    covered_map: float
    queries: int
    missed_map: float
    missed_first: float
    missed_queries: int

    def to_json(self) -> dict[str, float | int | None]:
        """A JSON-ready dict; NaN becomes null."""
        return {
            "recall": metrics.known(self.recall),
            "mean_iou": metrics.known(self.mean_iou),
            "objects": self.objects,
            "covered_mAP": metrics.known(self.covered_map),
            "queries": self.queries,
            "missed_mAP": metrics.known(self.missed_map),
            "missed_P@1": metrics.known(self.missed_first),
            "missed_queries": self.missed_queries,
        }


def cover(
    task: RetrievalTask,
    database: ImageRows | ImageWords,
    ranked: Sequence[RankedItems],
    answered: Collection[int],
    objects: Sequence[SetEntry],
) -> Coverage:
    """Compare the regions of the database with the true boxes of relevant objects.

    Args:
        task: The retrieval task, at image level; its metrics are those of the main setup.
        database: The described photos, in the order of the task.
        ranked: For each query, the places of at least its positives and junk.
        answered: Indices of the queries that could be described.
        objects: The true boxes.
    """
    known_boxes = true_boxes(objects)
    best: dict[tuple[int, str], float] = {}
    covered, missed = _Places(), _Places()
    for number, (query, of_query, relevant) in enumerate(zip(task.queries, ranked, task.relevance, strict=True)):
        without = []
        for item in np.setdiff1d(relevant.positives, task.own_photos[number]).tolist():
            known = [i for i in query.instances if (task.database[item].file, i) in known_boxes]
            for instance in known:
                if (item, instance) not in best:
                    regions = database.boxes[database.starts[item] : database.starts[item + 1]]
                    best[item, instance] = _best(regions, known_boxes[task.database[item].file, instance])
            if known and max(best[item, i] for i in known) < COVERED:
                without.append(item)
        parts = np.setdiff1d(relevant.positives, without), np.array(without, np.int64)
        for places, own, other in ((covered, *parts), (missed, *parts[::-1])):
            places.add(of_query, own if number in answered else own[:0], np.union1d(relevant.junk, other))
    ious = np.array(list(best.values()))
    figures = metrics.localisation(ious, COVERED)
    return Coverage(
        figures.corloc,
        figures.mean_iou,
        len(ious),
        covered.score("mAP"),
        covered.queries,
        missed.score("mAP"),
        missed.score("P@1"),
        missed.queries,
    )


class _Places:
    """The ranks of some of the relevant photos of each query."""

    def __init__(self) -> None:
        self._ranks: list[Int64Array] = []
        self._counts: list[int] = []

    def add(self, ranked: RankedItems, positives: Int64Array, junk: Int64Array) -> None:
        """Those of the next query."""
        self._ranks.append(ranked.ranks(positives, junk) if len(positives) else np.zeros(0, np.int64))
        self._counts.append(len(positives))

    def score(self, metric: str) -> float:
        """The mean over the queries with such photos."""
        return metrics.scored(metric, self._ranks, self._counts)

    @property
    def queries(self) -> int:
        """Number of queries with such photos."""
        return sum(map(bool, self._counts))


def _best(regions: Float32Array, truths: Sequence[Box]) -> float:
    """The largest IoU of any region with any of the true boxes; 0 without regions."""
    if not len(regions):
        return 0.0
    return float(iou(as_tensor(regions), as_tensor(np.array(truths, np.float32))).max())
