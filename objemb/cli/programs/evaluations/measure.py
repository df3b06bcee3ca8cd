"""One method on one set: describe, search, re-rank, score, and what it costs."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from objemb.cli.boxes import stored_boxes
from objemb.cli.output import note
from objemb.cli.programs.evaluations.describing import BoxSource, TaskDescriber
from objemb.cli.programs.evaluations.methods import learned_from
from objemb.cli.progress import Progress
from objemb.datasets.box_frames import fits
from objemb.datasets.evaluation_set import EvaluationSet
from objemb.evaluation.ablation import DETECTOR, GROUND_TRUTH, boxes_from
from objemb.evaluation.by_size import by_kind, by_object_size, by_query_size, localisation_by_size, positive_shares
from objemb.evaluation.cost import measure_cost
from objemb.evaluation.described import Described, object_crop
from objemb.evaluation.evaluate import Evaluation, evaluate_described
from objemb.evaluation.leakage import find_leaks
from objemb.evaluation.metrics import known, precision_recall
from objemb.evaluation.projector import evenly
from objemb.evaluation.retrieval_task import RetrievalTask
from objemb.images.sources import ImageRef
from objemb.images.stream import stream_photos
from objemb.models import Model
from objemb.models.model import given_boxes
from objemb.structures import Photo, Regions

MAX_SHOWN = 5
#: Numbers of a precision-recall curve are written with so many digits.
DIGITS = 5


@dataclass(frozen=True)
class Measured:
    """A cell of the matrix.

    Attributes:
        result: JSON-ready.
        found: What it comes from.
        described: The descriptors.
    """

    result: dict[str, Any]
    found: Evaluation
    described: Described


def measure(
    name: str, model: Model, data: EvaluationSet, task: RetrievalTask, source: str | None, args: argparse.Namespace
) -> Measured:
    """Everything about one method on one set.

    Args:
        name: Of the row.
        model: The model, with its re-rankers.
        data: The set.
        task: What is to be found in what.
        source: Where boxes come from in a box-source ablation; None without one.
        args: The command line.
    """
    note(f"{name}: {len(task.database)} {task.level}s, {len(task.queries)} queries")
    warnings = [str(leak) for leak in find_leaks(learned_from(model, args), data)]
    boxes, crop = box_source(model, data, source, args), args.crop or data.crop
    describer = TaskDescriber(model, data, boxes, crop, args.query_boxes, args.workers, args.cache)
    hits = args.hits if args.report and args.failures else 0
    with Progress() as display:
        files = [{entry.file for entry in part} for part in (task.database, task.queries)]
        meter = display.meter(f"{name}: describing", "photos", sum(map(len, files)))
        described, reused = describer.describe(task, on_photo=meter.step)
        display.meter(f"{name}: searching and scoring", "queries", len(task.queries))
        found = evaluate_described(
            described, data, task, rerankers=model.rerankers, describer=model.describer, hits=hits
        )
        tell(name, [*warnings, *found.problems])
        display.meter(f"{name}: figures by regions and cost", "parts", None)
        by_regions = _by_regions(name, describer, task, args.regions if source in (None, DETECTOR) else [])
        cost = _cost(describer, task, args)
    result = {
        "method": name,
        "set": data.name,
        **found.to_json(),
        "warnings": warnings,
        "precision_recall": _curve(task, found),
        **_by_parts(task, data, described, found),
        "by_regions": by_regions,
        "cost": cost,
        "descriptors_from_cache": reused,
        "boxes": source,
        "crop": describer.crop,
        "query_boxes": describer.query_boxes,
        "dim": model.dim,
        "precision": model.precision,
        "fingerprint": model.fingerprint,
        "settings": model.settings,
        "provenance": model.provenance,
    }
    return Measured(result, found, described)


def tell(name: str, lines: Sequence[str]) -> None:
    """The first lines on stderr, and how many are left out."""
    for line in lines[:MAX_SHOWN]:
        note(f"{name}: {line}")
    if len(lines) > MAX_SHOWN:
        note(f"{name}: and {len(lines) - MAX_SHOWN} more problems")


def box_source(model: Model, data: EvaluationSet, source: str | None, args: argparse.Namespace) -> BoxSource:
    """Where the boxes of database photos come from."""
    own = BoxSource.of_file(args.boxes, stored_boxes(args.boxes, model))
    if source is None:
        return own
    if source == DETECTOR:
        if own.detector is None and model.detector is None:
            raise ValueError("box source detector: expected a method with a detector, or --boxes, found neither")
        return own
    truth = [(e.file, e.box) for e in data.objects] if source == GROUND_TRUTH else None
    return BoxSource(boxes_from(source, data, None), [source, truth])


def _curve(task: RetrievalTask, found: Evaluation) -> list[float] | None:
    """Precision against recall under the main setup."""
    main = found.scores.setups[task.protocol.main]
    curve = precision_recall(main.ranks, main.num_positives).round(DIGITS).tolist()
    return None if math.isnan(curve[0]) else curve


def _by_parts(task: RetrievalTask, data: EvaluationSet, described: Described, found: Evaluation) -> dict[str, object]:
    """Figures by the kind of query, by its size and by that of the object; None for what the set does not tell."""
    main = found.scores.setups[task.protocol.main]
    kinds = {kind: figures.to_json() for kind, figures in by_kind(task, main).items()}
    of_queries = by_query_size(task, main, described.queries)
    return {
        "by_kind": kinds or None,
        "by_query_size": {size: figures.to_json() for size, figures in of_queries.items()},
        "by_object_size": _by_object_size(task, data, described, found) if data.objects else None,
    }


def _by_object_size(
    task: RetrievalTask, data: EvaluationSet, described: Described, found: Evaluation
) -> dict[str, Any]:
    """Metrics of rankings and localisation, by the size of the object."""
    shares = positive_shares(task, data.objects, described.database)
    ranked = by_object_size(task, found.ranked, shares, set(described.queries.items.tolist()))
    figures = {size: of_size.to_json() for size, of_size in ranked.items()}
    if found.located is not None:
        for size, of_size in localisation_by_size(found.located, described.database).items():
            figures[size] |= {name: known(value) for name, value in of_size._asdict().items()}
    return figures


def _by_regions(
    name: str, describer: TaskDescriber, task: RetrievalTask, counts: Sequence[int]
) -> list[dict[str, object]] | None:
    """The main figure by the most regions per photo; None where the method does not take boxes one by one."""
    model = describer.model
    if not counts:
        return None
    if task.level != "image" or (model.detector is None and describer.boxes.detector is None):
        note(f"{name}: no figures by the number of regions: expected boxes of a detector or --boxes, at image level")
        return None
    points = []
    for most in counts:
        described, _ = describer.describe(task, most)
        found = evaluate_described(
            described, describer.data, task, rerankers=model.rerankers, describer=model.describer
        )
        figure = task.protocol.main_figure
        points.append(
            {
                "max_regions": most,
                "figure": figure,
                "score": known(found.scores.means[figure]),
                "vectors_per_image": found.storage["vectors_per_image"],
            }
        )
    return points


def _cost(describer: TaskDescriber, task: RetrievalTask, args: argparse.Namespace) -> dict[str, object] | None:
    """What the description of a database photo costs, on photos in even steps through the database."""
    files = list(dict.fromkeys(entry.file for entry in task.database))
    chosen = [files[n] for n in evenly(len(files), args.cost_photos)]
    model = describer.model
    side = model.decode_side if task.level == "image" else model.query_side(object_crop(describer.crop))
    refs = [ImageRef(file, describer.data.photo(file)) for file in chosen]
    photos = [p for p in stream_photos(refs, workers=args.workers, side=side) if isinstance(p, Photo)]
    if not photos:
        return None
    with model.computing():
        return asdict(measure_cost(model.describer, photos, _describing(describer, task)))


def _describing(describer: TaskDescriber, task: RetrievalTask) -> Callable[[Photo], object]:
    """How a photo becomes rows of the database."""
    model, source = describer.model, given_boxes(describer.boxes.detector)
    if task.level == "image":

        def describe(photo: Photo) -> object:
            given = None if source is None else source.find([photo])
            return model.aggregator.aggregate(model.describer.describe([photo], given)[0])

        return describe
    of_photos: dict[str, list[Any]] = {}
    for entry in task.database:
        of_photos.setdefault(entry.file, []).append(entry.box)
    crop = object_crop(describer.crop)

    def describe_boxes(photo: Photo) -> object:
        inside = [box for box in of_photos[photo.id] if fits(box, photo.size)]  # the others are among the problems
        return model.query(photo, Regions(torch.tensor(inside).reshape(-1, 4), photo.size), crop=crop)

    return describe_boxes
