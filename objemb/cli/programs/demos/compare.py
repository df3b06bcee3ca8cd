"""The demo's table: all methods on the same photos and boxes, with queries of both kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import torch

from objemb.aggregators.base import Aggregator
from objemb.aggregators.keep import Keep
from objemb.aggregators.sum import Sum
from objemb.cli.programs.demos.rows import ROWS, TEACHERS, ComparedMethod
from objemb.cli.programs.timing import alternate
from objemb.datasets.evaluation_set import EvaluationSet
from objemb.datasets.writing import IN_PHOTO, PICTURE
from objemb.detectors.base import Detector
from objemb.evaluation.by_size import KIND
from objemb.evaluation.described import DescribedTask, aggregated, describe_entries, describe_images, only_vectors
from objemb.evaluation.evaluate import evaluate_described
from objemb.evaluation.metrics import known
from objemb.evaluation.retrieval_task import RetrievalTask, make_task, pick_queries
from objemb.evaluation.shares import share
from objemb.images.sources import ImageRef
from objemb.images.stream import stream_photos
from objemb.models import Model
from objemb.structures import ImageRows, Photo, Regions

#: Number of photos on which times are measured, and number of rounds.
TIMED_PHOTOS = 10
ROUNDS = 4
#: The kinds of queries: a box in a photo, and the picture of a product.
KINDS = (IN_PHOTO, PICTURE)


def compare(
    models: Mapping[str, Model], data: EvaluationSet, boxes: Mapping[str, Detector | None], advance: Callable[[], None]
) -> list[dict[str, object]]:
    """Measure all rows of the table.

    Args:
        models: The models by name, from :func:`objemb.cli.programs.demos.rows.open_describers`.
        data: The evaluation set.
        boxes: Boxes of the photos by source; None for a method's own regions.
        advance: Called after each row.

    Returns:
        For each row: ``key``, ``title``, ``vectors`` per photo, the mean ``iou`` of the matched boxes (queries in
        photos), and ``by_kind``: for each of ``KINDS`` the ``mAP``, ``P@1`` (0 to 1), the number of ``queries``, and
        the ``share`` of the teacher's mAP on the same boxes.
    """
    tasks = {kind: of_kind(data, kind) for kind in KINDS}
    described: dict[tuple[str, str], ImageRows] = {}
    found = []
    for row in ROWS:
        place = (row.describer, row.boxes)
        if place not in described:
            model, given = models[row.describer], boxes[row.boxes]
            rows, _ = describe_images(model, data, data.images, boxes=given)
            described[place] = only_vectors("demo", rows)
        found.append(_measure(row, models[row.describer], data, tasks, described[place]))
        advance()
    by_key = {one["key"]: one["by_kind"] for one in found}
    for row, one in zip(ROWS, found, strict=True):
        for kind, figures in one["by_kind"].items():
            figures["share"] = share(figures["mAP"], by_key[TEACHERS[row.boxes]][kind]["mAP"])
    return found


def of_kind(data: EvaluationSet, kind: str) -> RetrievalTask:
    """The queries of one of ``KINDS``, searched for among all photos."""
    return pick_queries(make_task(data), (f"{KIND}={kind}",))


def milliseconds(models: Mapping[str, Model], data: EvaluationSet, boxes: Detector) -> dict[str, float]:
    """Milliseconds per photo, without decoding, of each describer and of the detector alone (``boxes``).

    All run in turn on the same photos. Two passes are that of the detector and that of the describer with given boxes;
    one pass is the student with its own boxes.
    """
    refs = [ImageRef(e.file, data.photo(e.file)) for e in data.images[:TIMED_PHOTOS]]
    photos = [p for p in stream_photos(refs) if isinstance(p, Photo)]
    given = boxes.detect(photos)
    detector = models["student"].detector
    assert detector is not None

    def run(model: Model, regions: Sequence[Regions] | None) -> Callable[[], object]:
        return torch.inference_mode()(lambda: [_describe(model, n, photos, regions) for n in range(len(photos))])

    own = ("whole", "rmac", "student")
    sides = {name: run(model, None if name in own else given) for name, model in models.items()}
    sides["boxes"] = lambda: [detector.detect([p]) for p in photos]
    times = alternate(sides, ROUNDS)
    return {name: 1000 * median(seconds) / len(photos) for name, seconds in times.items()}


def _describe(model: Model, number: int, photos: Sequence[Photo], regions: Sequence[Regions] | None) -> object:
    return model.describer.describe([photos[number]], None if regions is None else [regions[number]])


def _measure(
    row: ComparedMethod, model: Model, data: EvaluationSet, tasks: Mapping[str, RetrievalTask], regions: ImageRows
) -> dict[str, Any]:
    aggregator: Aggregator = Sum() if row.total else Keep()
    database = aggregated(regions, aggregator)
    query_model = Model(model.describer, aggregator if row.cut else Keep(), model.settings)
    by_kind, iou = {}, None
    for kind, task in tasks.items():
        queries, _ = describe_entries(query_model, data, task.queries, crop="scaled" if row.cut else "context")
        evaluation = evaluate_described(DescribedTask(database, queries), data, task)
        means = evaluation.scores.means
        by_kind[kind] = {"mAP": means["mAP"], "P@1": means["P@1"], "queries": evaluation.scores.queries}
        if kind == IN_PHOTO and evaluation.localisation is not None and not row.total:
            iou = known(evaluation.localisation.mean_iou)
    vectors = len(database.vectors) / len(data.images)
    return {"key": row.key, "title": row.title, "by_kind": by_kind, "iou": iou, "vectors": vectors}
