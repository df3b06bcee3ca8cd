"""Describe, search, score: a model and an evaluation set become figures."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

from objemb.detectors.base import Detector
from objemb.evaluation.described import Describing, Rows, describe_entries, describe_images
from objemb.evaluation.metrics import Localisation
from objemb.evaluation.protocol import EvaluationSet
from objemb.evaluation.scoring import Scores, localise, rank_all, score
from objemb.evaluation.task import Task


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        scores: Of the rankings.
        localisation: Of the matched boxes at image level where true boxes are known, else None.
        storage: ``vectors`` in all, ``vectors_per_image`` and ``bytes_per_image`` (float32), per database photo.
        seconds: ``describe_per_image`` and ``describe_per_query`` (decoding included), ``search_per_query`` (complete
            rankings).
        problems: Photos that could not be described, boxes outside their photo, queries without positives.
    """

    scores: Scores
    localisation: Localisation | None
    storage: dict[str, float]
    seconds: dict[str, float]
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict; NaN becomes null."""
        found = self.localisation
        return {
            "scores": {name: _known(value) for name, value in self.scores.means.items()},
            "queries": self.scores.queries,
            "skipped": self.scores.skipped,
            "localisation": None if found is None else {name: _known(v) for name, v in found._asdict().items()},
            "storage": self.storage,
            "seconds": self.seconds,
            "problems": list(self.problems),
            "per_query": self.scores.per_query,
        }


def evaluate(
    model: Describing,
    data: EvaluationSet,
    task: Task,
    *,
    boxes: Detector | None = None,
    crop: str = "context",
    workers: int = 2,
) -> Evaluation:
    """Describe the database and the queries of a task, search exactly, and score the complete rankings.

    Args:
        model: The model.
        data: The set.
        task: What is to be found in what.
        boxes: At image level: where the boxes of the database come from instead of the model's own regions.
        crop: How a query box is seen, as in ``Model.query``.
        workers: Decoding threads.
    """
    at_images = task.level == "image"
    if boxes is not None and not at_images:
        raise ValueError("boxes: expected none at object level, where the set's own objects are the database")
    clock = [time.perf_counter()]
    if at_images:
        database = describe_images(model, data, task.database, boxes=boxes, workers=workers)
    else:
        database = describe_entries(model, data, task.database, workers=workers)
    clock.append(time.perf_counter())
    queries = describe_entries(model, data, task.queries, crop=crop, workers=workers)
    clock.append(time.perf_counter())
    rankings = rank_all(database, queries, len(task.database), len(task.queries))
    clock.append(time.perf_counter())
    problems = dict.fromkeys((*database.problems, *queries.problems, *task.queries_without_positives()))
    return Evaluation(
        scores=score(task, rankings, set(queries.items.tolist())),
        localisation=localise(task, rankings, data.objects) if at_images and data.objects else None,
        storage=_storage(task, database),
        seconds=_seconds(task, clock),
        problems=tuple(problems),
    )


def _storage(task: Task, database: Rows) -> dict[str, float]:
    photos = _photos(task)
    return {
        "vectors": len(database),
        "vectors_per_image": len(database) / photos,
        "bytes_per_image": database.vectors.nbytes / photos,
    }


def _seconds(task: Task, clock: list[float]) -> dict[str, float]:
    """Times per photo and per query from the moments between the stages."""
    start, described, queried, searched = clock
    queries = max(1, len(task.queries))
    return {
        "describe_per_image": (described - start) / _photos(task),
        "describe_per_query": (queried - described) / queries,
        "search_per_query": (searched - queried) / queries,
    }


def _photos(task: Task) -> int:
    return max(1, len({entry.file for entry in task.database}))


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
