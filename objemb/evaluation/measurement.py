"""Further measurements of a method on a set: metrics of parts of the set and by the number of regions, and the cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from objemb.datasets.box_frames import fits
from objemb.datasets.evaluation_set import EvaluationSet
from objemb.evaluation.by_size import by_kind, by_object_size, by_query_size, localisation_by_size, positive_shares
from objemb.evaluation.cost import Cost, measure_cost
from objemb.evaluation.described import DescribedTask, object_crop
from objemb.evaluation.evaluate import Evaluation, evaluate_described
from objemb.evaluation.metrics import known, precision_recall
from objemb.evaluation.projector import evenly
from objemb.evaluation.retrieval_task import RetrievalTask
from objemb.evaluation.task_describer import TaskDescriber
from objemb.images.sources import ImageRef
from objemb.images.stream import stream_photos
from objemb.models.base import given_regions
from objemb.structures import Box, Photo, Regions

#: Decimals of the numbers of a precision-recall curve.
DIGITS = 5


def curve(task: RetrievalTask, evaluation: Evaluation) -> list[float] | None:
    """Precision at the recalls of :data:`objemb.evaluation.metrics.RECALLS` under the main setup; None if no query
    counts."""
    main = evaluation.scores.setups[task.protocol.main]
    precisions = precision_recall(main.ranks, main.num_positives).round(DIGITS).tolist()
    return None if math.isnan(precisions[0]) else precisions


def figures_by_parts(
    task: RetrievalTask, data: EvaluationSet, described: DescribedTask, evaluation: Evaluation
) -> dict[str, object]:
    """Metrics ``by_kind`` of the query, ``by_query_size`` and ``by_object_size``, JSON-ready; None for those that the
    set has no data for."""
    main = evaluation.scores.setups[task.protocol.main]
    kinds = {kind: figures.to_json() for kind, figures in by_kind(task, main).items()}
    of_queries = by_query_size(task, main, described.queries)
    return {
        "by_kind": kinds or None,
        "by_query_size": {size: figures.to_json() for size, figures in of_queries.items()},
        "by_object_size": _by_object_size(task, data, described, evaluation) if data.objects else None,
    }


def _by_object_size(
    task: RetrievalTask, data: EvaluationSet, described: DescribedTask, evaluation: Evaluation
) -> dict[str, dict[str, object]]:
    """Metrics of rankings and localisation, by the size of the object."""
    shares = positive_shares(task, data.objects, described.database)
    ranked = by_object_size(task, evaluation.ranked, shares, set(described.queries.items.tolist()))
    figures = {size: of_size.to_json() for size, of_size in ranked.items()}
    if evaluation.located is not None:
        for size, of_size in localisation_by_size(evaluation.located, described.database).items():
            figures[size] |= {name: known(value) for name, value in of_size._asdict().items()}
    return figures


def figures_by_regions(describer: TaskDescriber, task: RetrievalTask, counts: Sequence[int]) -> list[dict[str, object]]:
    """The main figure of a method with at most so many regions per photo, for each of ``counts``; JSON-ready.

    Args:
        describer: Describer of a method whose boxes can be limited (:meth:`TaskDescriber.takes_boxes`), with its
            re-rankers.
        task: The retrieval task, at image level.
        counts: Maximum numbers of regions.
    """
    model, figure = describer.model, task.protocol.main_figure
    points: list[dict[str, object]] = []
    for most in counts:
        described, _ = describer.describe(task, most)
        with model.computing():
            evaluation = evaluate_described(
                described, describer.data, task, rerankers=model.rerankers, describer=model.photo_describer
            )
        score, vectors = known(evaluation.scores.means[figure]), evaluation.storage["vectors_per_image"]
        points.append({"max_regions": most, "figure": figure, "score": score, "vectors_per_image": vectors})
    return points


def cost_of_photos(describer: TaskDescriber, task: RetrievalTask, count: int) -> Cost | None:
    """The cost of describing a database photo.

    Args:
        describer: Describer of the method.
        task: The retrieval task.
        count: Number of photos, evenly spaced in the database.

    Returns:
        None if none of them can be decoded.
    """
    files = list(dict.fromkeys(entry.file for entry in task.database))
    chosen = [files[n] for n in evenly(len(files), count)]
    model = describer.model
    side = model.decode_side if task.level == "image" else model.query_side(object_crop(describer.crop))
    refs = [ImageRef(file, describer.data.photo(file)) for file in chosen]
    photos = [p for p in stream_photos(refs, workers=describer.workers, side=side) if isinstance(p, Photo)]
    if not photos:
        return None
    with model.computing():
        return measure_cost(model.photo_describer, photos, _describing(describer, task))


def _describing(describer: TaskDescriber, task: RetrievalTask) -> Callable[[Photo], object]:
    """A function that describes a photo as in the database."""
    model, boxes = describer.model, describer.boxes.detector
    if task.level == "image":

        def describe(photo: Photo) -> object:
            given = None if boxes is None else given_regions(boxes, [photo])
            return model.rows([photo], given)[0]

        return describe
    of_photos: dict[str, list[Box | None]] = {}
    for entry in task.database:
        of_photos.setdefault(entry.file, []).append(entry.box)
    crop = object_crop(describer.crop)

    def describe_boxes(photo: Photo) -> object:
        inside = [box for box in of_photos[photo.id] if fits(box, photo.size)]  # the others are reported as problems
        return model.query(photo, Regions(torch.tensor(inside).reshape(-1, 4), photo.size), crop=crop)

    return describe_boxes
