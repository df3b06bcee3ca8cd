"""Measure one method on one set: describe, search, re-rank, score, and measure the cost."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from objemb.cli.boxes import stored_boxes
from objemb.cli.output import note
from objemb.cli.progress import Progress
from objemb.datasets.evaluation_set import EvaluationSet
from objemb.evaluation.ablation import DETECTOR, GROUND_TRUTH, boxes_from
from objemb.evaluation.described import DescribedTask
from objemb.evaluation.evaluate import Evaluation, evaluate_described
from objemb.evaluation.leakage import find_leaks, learned_from
from objemb.evaluation.measurement import cost_of_photos, curve, figures_by_parts, figures_by_regions
from objemb.evaluation.retrieval_task import RetrievalTask
from objemb.evaluation.task_describer import BoxSource, TaskDescriber
from objemb.models import EmbeddingModel

MAX_SHOWN = 5
#: What a method needs for figures by the number of regions.
NO_BOXES = "expected boxes of a detector or --boxes, at image level"


@dataclass(frozen=True)
class Measured:
    """A cell of the matrix.

    Attributes:
        result: The results, JSON-ready.
        evaluation: The evaluation that they come from.
        described: The descriptors.
    """

    result: dict[str, Any]
    evaluation: Evaluation
    described: DescribedTask


def measure(
    name: str,
    model: EmbeddingModel,
    data: EvaluationSet,
    task: RetrievalTask,
    source: str | None,
    args: argparse.Namespace,
) -> Measured:
    """Measure one method on one set.

    Args:
        name: Name of the row.
        model: The model, with its re-rankers.
        data: The set.
        task: The retrieval task on the set.
        source: Source of the boxes in a box-source ablation; None if there is none.
        args: The command line.
    """
    note(f"{name}: {len(task.database)} {task.level}s, {len(task.queries)} queries")
    warnings = [str(leak) for leak in find_leaks(learned_from(model, args.whiten_on), data)]
    boxes, crop = box_source(model, data, source, args), args.crop or data.crop
    describer = TaskDescriber(model, data, boxes, crop, args.query_boxes, args.workers, args.cache, note)
    hits = args.hits if args.report and args.failures else 0
    with Progress() as display:
        files = [{entry.file for entry in part} for part in (task.database, task.queries)]
        meter = display.meter(f"{name}: describing", "photos", sum(map(len, files)))
        described, reused = describer.describe(task, on_photo=meter.step)
        display.meter(f"{name}: searching and scoring", "queries", len(task.queries))
        with model.computing():
            evaluation = evaluate_described(
                described, data, task, rerankers=model.rerankers, describer=model.photo_describer, hits=hits
            )
        report_problems(name, [*warnings, *evaluation.problems])
        display.meter(f"{name}: figures by regions and cost", "parts", None)
        counts = args.regions if source in (None, DETECTOR) else []
        if counts and not describer.takes_boxes(task):
            note(f"{name}: no figures by the number of regions: {NO_BOXES}")
            counts = []
        by_regions = figures_by_regions(describer, task, counts) or None
        cost = cost_of_photos(describer, task, args.cost_photos)
    result = {
        "method": name,
        "set": data.name,
        **evaluation.to_json(),
        "warnings": warnings,
        "precision_recall": curve(task, evaluation),
        **figures_by_parts(task, data, described, evaluation),
        "by_regions": by_regions,
        "cost": None if cost is None else asdict(cost),
        "descriptors_from_cache": reused,
        "boxes": source,
        "crop": describer.crop,
        "query_boxes": describer.query_boxes,
        "dim": model.dim,
        "precision": model.precision,
        "computation": model.computation,
        "fingerprint": model.fingerprint,
        "settings": model.settings,
        "provenance": model.provenance,
    }
    return Measured(result, evaluation, described)


def report_problems(name: str, lines: Sequence[str]) -> None:
    """Print the first lines to stderr, and how many more there are."""
    for line in lines[:MAX_SHOWN]:
        note(f"{name}: {line}")
    if len(lines) > MAX_SHOWN:
        note(f"{name}: and {len(lines) - MAX_SHOWN} more problems")


def box_source(model: EmbeddingModel, data: EvaluationSet, source: str | None, args: argparse.Namespace) -> BoxSource:
    """The source of the boxes of database photos."""
    own = BoxSource.of_file(stored_boxes(args.boxes, model))
    if source is None:
        return own
    if source == DETECTOR:
        if own.detector is None and not model.has_detector:
            raise ValueError("box source detector: expected a method with a detector, or --boxes, found neither")
        return own
    truth = [(e.file, e.box) for e in data.objects] if source == GROUND_TRUTH else None
    return BoxSource(boxes_from(source, data, None), [source, truth])
