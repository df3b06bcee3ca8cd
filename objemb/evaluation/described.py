"""The descriptors of an evaluation: rows of the database and rows of the queries."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from objemb.aggregators.base import Aggregator
from objemb.checks import ArtefactMismatchError, ObjembError
from objemb.datasets.box_frames import fits, outside
from objemb.datasets.evaluation_set import EvaluationSet, SetEntry
from objemb.detectors.base import Detector
from objemb.evaluation.retrieval_task import RetrievalTask
from objemb.images.sources import ImageRef, SkippedImage
from objemb.images.stream import stream_photos
from objemb.models.base import EmbeddingModel
from objemb.structures import Box, Described, ImageRows, ImageWords, Photo, VisualWords
from objemb.structures.described import expect_vectors

#: A query without a box stands for its whole photo.
WHOLE = "whole"


@dataclass(frozen=True, eq=False)
class DescribedTask:
    """The descriptors of a task.

    Attributes:
        database: Rows of the task's database, in its order.
        queries: Rows of its queries.
        seconds: Time to describe the ``database`` and the ``queries``, decoding included; empty if not measured.
        problems: A line for each photo that could not be described and each box that leaves its photo.
    """

    database: ImageRows | ImageWords
    queries: ImageRows | ImageWords
    seconds: dict[str, float] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def describe_task(
    model: EmbeddingModel,
    data: EvaluationSet,
    task: RetrievalTask,
    *,
    boxes: Detector | None = None,
    crop: str | None = None,
    query_boxes: str = WHOLE,
    workers: int = 2,
    on_photo: Callable[[], object] = lambda: None,
) -> DescribedTask:
    """Describe the database and the queries of a task.

    Args:
        model: The model.
        data: The set.
        task: The retrieval task on the set.
        boxes: At image level, gives the boxes of the database instead of the model's own regions.
        crop: How query boxes are described, as in ``Model.query``, and at object level also the boxes of the database;
            by default as the set says.
        query_boxes: The regions of a query without a box: ``whole``, ``detector`` or ``both``, as in ``Model.query``.
        workers: Number of decoding threads.
        on_photo: Called after each photo of database and queries.
    """
    if boxes is not None and task.level != "image":
        raise ValueError("boxes: expected none at object level, where the objects of the set are the database")
    start = time.perf_counter()
    if task.level == "image":
        database, problems = describe_images(
            model, data, task.database, boxes=boxes, workers=workers, on_photo=on_photo
        )
    else:
        seen = object_crop(crop or data.crop)
        objects, problems = describe_entries(model, data, task.database, crop=seen, workers=workers, on_photo=on_photo)
        database = replace(objects, images=task.item_ids)
    between = time.perf_counter()
    queries, of_queries = describe_entries(
        model, data, task.queries, crop=crop or data.crop, unboxed=query_boxes, workers=workers, on_photo=on_photo
    )
    seconds = {"database": between - start, "queries": time.perf_counter() - between}
    return DescribedTask(database, queries, seconds, (*problems, *of_queries))


def object_crop(crop: str) -> str:
    """How the boxes of an object-level database are described: in the same way as the query boxes.

    If queries stand for their whole photo (``whole``), database boxes are still described as boxes (``context``).
    """
    return "context" if crop == "whole" else crop


def describe_images(
    model: EmbeddingModel,
    data: EvaluationSet,
    images: Sequence[SetEntry],
    *,
    boxes: Detector | None = None,
    workers: int = 2,
    on_photo: Callable[[], object] = lambda: None,
) -> tuple[ImageRows | ImageWords, list[str]]:
    """Describe database photos as they would be indexed.

    Args:
        model: The model.
        data: The set that the photos belong to.
        images: The photos.
        boxes: Gives the boxes instead of the model's own regions.
        workers: Number of decoding threads.
        on_photo: Called after each photo.

    Returns:
        The rows of the photos, named by their files, and a line for each photo that could not be described and each
        problem with the boxes.

    Raises:
        ValueError: None of the boxes could be used.
    """
    numbers = {image.file: number for number, image in enumerate(images)}
    refs = [ImageRef(image.file, data.photo(image.file)) for image in images]
    skipped: list[SkippedImage] = []

    def skip(photo: SkippedImage) -> None:
        skipped.append(photo)
        on_photo()

    described: dict[int, Described] = {}
    for rows in model.stream(refs, workers=workers, boxes=boxes, on_skip=skip):
        described[numbers[rows.image]] = rows
        on_photo()
    problems = [_line(s) for s in skipped]
    if boxes is not None:
        boxes.expect_used()
        problems += [f"{entry}: {reason}" for entry, reason in boxes.problems]
    return _rows(model, described, [image.file for image in images]), problems


def aggregated(regions: ImageRows, aggregator: Aggregator) -> ImageRows:
    """Aggregate the rows of regions.

    Args:
        regions: The rows of all regions, from a model with the aggregator ``keep``; without labels and scores.
        aggregator: Turns the regions of an image into its rows.
    """
    described = {number: regions.descriptors(number) for number in np.unique(regions.items).tolist()}
    rows = {number: aggregator.aggregate(of_image) for number, of_image in described.items()}
    return ImageRows.from_descriptors(rows, regions.dim, regions.images)


def describe_entries(
    model: EmbeddingModel,
    data: EvaluationSet,
    entries: Sequence[SetEntry],
    *,
    crop: str = "context",
    unboxed: str = WHOLE,
    workers: int = 2,
    on_photo: Callable[[], object] = lambda: None,
) -> tuple[ImageRows | ImageWords, list[str]]:
    """Describe boxes, or whole photos where the box is None. Every photo is decoded once.

    Photos are decoded at full size if boxes are cut out and described as separate images, because a part of a photo
    needs more pixels than the whole.

    Args:
        model: The model.
        data: The set that the entries belong to.
        entries: The entries to describe.
        crop: How a box is described, as in ``Model.query``.
        unboxed: The regions of an entry without a box: the ``whole`` photo, or those of another word of
            ``Model.query``.
        workers: Number of decoding threads.
        on_photo: Called for each photo before it is described.

    Returns:
        The rows of the entries, named by their files, and a line for each photo that could not be described and each
        box that leaves its photo.
    """
    by_file: dict[str, list[int]] = defaultdict(list)
    for number, entry in enumerate(entries):
        by_file[entry.file].append(number)
    refs = [ImageRef(file, data.photo(file)) for file in by_file]
    no_boxes = unboxed == WHOLE and all(e.box is None for e in entries)
    side = model.decode_side if no_boxes else model.query_side(crop)
    described: dict[int, Described] = {}
    problems: list[str] = []
    for photo in stream_photos(refs, workers=workers, side=side):
        on_photo()
        if isinstance(photo, SkippedImage):
            problems.append(_line(photo))
            continue
        fitting = [n for n in by_file[photo.id] if fits(entries[n].box, photo.size)]
        odd = [n for n in by_file[photo.id] if n not in fitting]
        problems += [f"{photo.id}: {outside(photo.size, entries[n].box)}" for n in odd]
        try:
            described |= _describe_photo(model, photo, {n: entries[n].box for n in fitting}, crop, unboxed)
        except (ObjembError, RuntimeError) as error:
            problems.append(f"{photo.id}: cannot be described: {error}")
    return _rows(model, described, [entry.file for entry in entries]), problems


def only_vectors(who: str, rows: ImageRows | ImageWords) -> ImageRows:
    """The rows if they are vectors.

    Args:
        who: The part that needs vectors, for the error.
        rows: Rows of images.

    Raises:
        ArtefactMismatchError: The rows are visual words.
    """
    if not isinstance(rows, ImageRows):
        raise ArtefactMismatchError(f"{who}: expected a model of vectors, found visual words")
    return rows


def _rows(model: EmbeddingModel, described: Mapping[int, Described], images: Sequence[str]) -> ImageRows | ImageWords:
    """The rows of images, from descriptions by the index of the image; some images may have none."""
    if model.kernel is not None:
        words = {number: one for number, one in described.items() if isinstance(one, VisualWords)}
        return ImageWords.of(words, model.dim, model.kernel, images)
    vectors = {number: expect_vectors("evaluation", one) for number, one in described.items()}
    return ImageRows.from_descriptors(vectors, model.dim, images)


def _describe_photo(
    model: EmbeddingModel, photo: Photo, wanted: dict[int, Box | None], crop: str, unboxed: str
) -> dict[int, Described]:
    """Describe the boxes of one photo, given by the index of their entry; equal boxes are described once."""
    distinct = list(dict.fromkeys(box for box in wanted.values() if box is not None))
    rows: dict[Box | None, Described] = {}
    if distinct:
        rows.update(zip(distinct, model.query(photo, distinct, crop=crop), strict=True))
    if None in wanted.values():
        rows[None] = model.query(photo, unboxed, crop=crop)
    return {number: rows[box] for number, box in wanted.items()}


def _line(skipped: SkippedImage) -> str:
    return f"{skipped.id}: {skipped.reason}"
