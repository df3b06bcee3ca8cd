"""The demo's table: every way to describe photos, on the same photos, boxes and queries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch

from objemb.aggregators.base import Aggregator
from objemb.aggregators.keep import Keep
from objemb.aggregators.sum import Sum
from objemb.cli.programs.demos.rows import ROWS, Row
from objemb.cli.programs.timing import alternate
from objemb.datasets.writing import IN_PHOTO
from objemb.detectors.base import Detector
from objemb.evaluation.by_size import KIND
from objemb.evaluation.described import Rows, describe_entries
from objemb.evaluation.protocol import EvaluationSet
from objemb.evaluation.ranks import standings
from objemb.evaluation.scoring import listed_items, locate, score
from objemb.evaluation.task import Task, make_task, pick_queries
from objemb.images.sources import ImageRef
from objemb.images.stream import stream_photos
from objemb.models import Model
from objemb.structures import Photo, RegionDescriptors, Regions

#: Photos on which times are measured, and how often.
TIMED_PHOTOS = 10
ROUNDS = 4
#: The queries that are searched for, of all that the set has.
SEARCHED = (f"{KIND}={IN_PHOTO}",)

Described = list[tuple[int, RegionDescriptors]]


def compare(
    models: Mapping[str, Model], data: EvaluationSet, boxes: Mapping[str, Detector | None], advance: Callable[[], None]
) -> list[dict[str, Any]]:
    """Measure all rows.

    Args:
        models: By the names of :func:`objemb.cli.programs.demos.rows.open_describers`.
        data: Photos, queries, and which photo shows what.
        boxes: Stored boxes of the photos by source; None for a method's own regions.
        advance: Called after each row.

    Returns:
        Per row ``key``, ``title``, ``mAP``, ``P@1`` (0 to 1), ``iou`` of matched boxes, ``vectors`` per photo and
        ``queries``.
    """
    task = pick_queries(make_task(data), SEARCHED)
    described: dict[tuple[str, str], Described] = {}
    found = []
    for row in ROWS:
        place = (row.describer, row.boxes)
        if place not in described:
            described[place] = _database(models[row.describer], data, task, boxes[row.boxes])
        found.append(_measure(row, models[row.describer], data, task, described[place]))
        advance()
    return found


def milliseconds(models: Mapping[str, Model], data: EvaluationSet, boxes: Detector) -> dict[str, float]:
    """Milliseconds per photo, without decoding, of each describer and of the ``boxes`` alone.

    All take turns on the same photos. Two passes are the detector's and the describer's with given boxes; one pass is
    the student finding its own.
    """
    refs = [ImageRef(e.file, data.photo(e.file)) for e in data.images[:TIMED_PHOTOS]]
    photos = [p for p in stream_photos(refs) if isinstance(p, Photo)]
    given = boxes.detect(photos)
    detector = models["student"].detector
    assert detector is not None

    def run(model: Model, regions: Sequence[Regions] | None) -> Callable[[], Any]:
        return torch.inference_mode()(lambda: [_describe(model, n, photos, regions) for n in range(len(photos))])

    own = ("whole", "rmac", "student")
    sides = {name: run(model, None if name in own else given) for name, model in models.items()}
    sides["boxes"] = lambda: [detector.detect([p]) for p in photos]
    times = alternate(sides, ROUNDS)
    return {name: 1000 * median(seconds) / len(photos) for name, seconds in times.items()}


def _describe(model: Model, number: int, photos: Sequence[Photo], regions: Sequence[Regions] | None) -> Any:
    return model.describer.describe([photos[number]], None if regions is None else [regions[number]])


def _database(model: Model, data: EvaluationSet, task: Task, boxes: Detector | None) -> Described:
    """The regions of all database photos."""
    numbers = {entry.file: number for number, entry in enumerate(task.database)}
    refs = [ImageRef(entry.file, data.photo(entry.file)) for entry in task.database]
    return [(numbers[one.image], one) for one in model.stream(refs, boxes=boxes)]


def _measure(row: Row, model: Model, data: EvaluationSet, task: Task, described: Described) -> dict[str, Any]:
    aggregator: Aggregator = Sum() if row.total else Keep()
    database = Rows.of([(n, aggregator.aggregate(one)) for n, one in described], model.dim, ())
    asked = Model(model.describer, aggregator if row.cut else Keep(), model.settings)
    queries = describe_entries(asked, data, task.queries, crop="scaled" if row.cut else "context")
    found = standings(database, queries, listed_items(task))
    scores = score(task, found, set(queries.items.tolist()))
    where = None if row.total or not data.objects else locate(task, found, data.objects).figures
    return {
        "key": row.key,
        "title": row.title,
        "mAP": scores.means["mAP"],
        "P@1": scores.means["P@1"],
        "iou": None if where is None or np.isnan(where.mean_iou) else where.mean_iou,
        "vectors": len(database) / len(task.database),
        "queries": scores.queries,
    }
