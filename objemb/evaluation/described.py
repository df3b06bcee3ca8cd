"""An evaluation set, described by a model: the rows that are searched, and those that they are searched with."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from objemb.checks import ObjembError
from objemb.datasets.box_frames import fits, outside
from objemb.datasets.evaluation_set import EvaluationSet, SetEntry
from objemb.detectors.base import Detector
from objemb.evaluation.retrieval_task import RetrievalTask
from objemb.images.sources import ImageRef, SkippedImage
from objemb.images.stream import stream_photos
from objemb.structures import Box, Photo, RegionDescriptors, Regions

#: A query without a box is searched with its whole photo.
WHOLE = "whole"
#: Which item it is, and its rows.
Numbered = tuple[int, RegionDescriptors]


class EmbeddingModel(Protocol):
    """What an evaluation asks of a model; ``objemb.models.Model`` is one."""

    @property
    def dim(self) -> int:
        """Length of the vectors."""

    @property
    def decode_side(self) -> int | None:
        """The longest side of a photo in pixels that is of use."""

    def query_side(self, crop: str) -> int | None:
        """As ``decode_side``, for photos whose boxes are seen as ``crop`` says."""

    def query(
        self, image: Photo, boxes: Sequence[Box] | str | None = None, *, crop: str = "context"
    ) -> RegionDescriptors:
        """One row per box, or those of what a word such as ``whole`` stands for."""

    def stream(
        self,
        sources: Iterable[ImageRef | SkippedImage],
        *,
        workers: int = 2,
        boxes: Detector | None = None,
        on_skip: Callable[[SkippedImage], None],
    ) -> Iterator[RegionDescriptors]:
        """Rows for an index, photo by photo."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Vectors of numbered items (photos, objects or queries).

    Attributes:
        vectors: float32 ``(R, D)``.
        items: int64 ``(R,)``, rising: the item of each row. Items that could not be described have none.
        boxes: float32 ``(R, 4)``, xyxy in original pixels: where each row looks.
        problems: A line for each photo that could not be described and each box that leaves its photo.
        sizes: int64 ``(R, 2)``, height and width of the original photo of each row; None where photos are not known.
    """

    vectors: NDArray[np.float32]
    items: NDArray[np.int64]
    boxes: NDArray[np.float32]
    problems: tuple[str, ...] = ()
    sizes: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.items)

    @staticmethod
    def of(described: Sequence[Numbered], dim: int, problems: Sequence[str]) -> Rows:
        """The rows of described items, sorted by item."""
        ordered = sorted(described, key=lambda numbered: numbered[0])
        lengths = [len(rows) for _, rows in ordered]
        vectors = [np.zeros((0, dim), np.float32), *(rows.vectors for _, rows in ordered)]
        boxes = [np.zeros((0, 4), np.float32), *(rows.regions.boxes for _, rows in ordered)]
        items = np.repeat(np.array([item for item, _ in ordered], dtype=np.int64), lengths)
        sizes = np.array([rows.regions.size for _, rows in ordered], dtype=np.int64).reshape(-1, 2)
        sizes = np.repeat(sizes, lengths, axis=0)
        return Rows(np.concatenate(vectors), items, np.concatenate(boxes), tuple(problems), sizes)

    def of_item(self, item: int, image: str) -> RegionDescriptors:
        """The rows of one item, perhaps none, under the name of an image."""
        here = slice(*np.searchsorted(self.items, [item, item + 1]))
        boxes = torch.from_numpy(np.array(self.boxes[here]))
        height, width = self._size(here)
        return RegionDescriptors(image, Regions(boxes, (height, width)), torch.from_numpy(np.array(self.vectors[here])))

    def _size(self, rows: slice) -> tuple[int, int]:
        """Of the photo of some rows of an item; where it is not known, that of the smallest that holds the boxes."""
        if self.sizes is not None and len(self.sizes[rows]):
            height, width = self.sizes[rows][0].tolist()
        else:
            width, height = np.ceil(self.boxes[rows, 2:]).max(axis=0, initial=1).astype(int).tolist()
        return height, width


@dataclass(frozen=True, eq=False)
class Described:
    """A task, described.

    Attributes:
        database: Items are the numbers of the task's database.
        queries: Items are the numbers of its queries.
        seconds: What it took to describe the ``database`` and the ``queries``, decoding included.
    """

    database: Rows
    queries: Rows
    seconds: dict[str, float]


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
) -> Described:
    """Describe the database and the queries of a task.

    Args:
        model: The model.
        data: The set.
        task: What is to be found in what.
        boxes: At image level: where the boxes of the database come from instead of the model's own regions.
        crop: How a query box is seen, as in ``Model.query``, and at object level the boxes that it is compared with; by
            default as the set says.
        query_boxes: What a query without a box is searched with: ``whole``, ``detector`` or ``both``, as in
            ``Model.query``.
        workers: Decoding threads.
        on_photo: Called for each photo of database and queries that is done.
    """
    if boxes is not None and task.level != "image":
        raise ValueError("boxes: expected none at object level, where the set's own objects are the database")
    start = time.perf_counter()
    if task.level == "image":
        database = describe_images(model, data, task.database, boxes=boxes, workers=workers, on_photo=on_photo)
    else:
        seen = object_crop(crop or data.crop)
        database = describe_entries(model, data, task.database, crop=seen, workers=workers, on_photo=on_photo)
    between = time.perf_counter()
    queries = describe_entries(
        model, data, task.queries, crop=crop or data.crop, unboxed=query_boxes, workers=workers, on_photo=on_photo
    )
    seconds = {"database": between - start, "queries": time.perf_counter() - between}
    return Described(database, queries, seconds)


def object_crop(crop: str) -> str:
    """How the boxes of an object-level database are seen: as those of the queries, which they are compared with. Of a
    query that stands for its whole photo they are the boxes still."""
    return "context" if crop == "whole" else crop


def describe_images(
    model: EmbeddingModel,
    data: EvaluationSet,
    images: Sequence[SetEntry],
    *,
    boxes: Detector | None = None,
    workers: int = 2,
    on_photo: Callable[[], object] = lambda: None,
) -> Rows:
    """Describe database photos as they would be indexed.

    Args:
        model: The model.
        data: The set that the photos belong to.
        images: The photos; they become items 0 to N - 1.
        boxes: Where boxes come from instead of the model's own regions. What of them could not be used is among the
            problems.
        workers: Decoding threads.
        on_photo: Called for each photo that is done.

    Raises:
        ValueError: Not one of the boxes could be used.
    """
    numbers = {image.file: number for number, image in enumerate(images)}
    refs = [ImageRef(image.file, data.photo(image.file)) for image in images]
    skipped: list[SkippedImage] = []

    def skip(photo: SkippedImage) -> None:
        skipped.append(photo)
        on_photo()

    described = []
    for rows in model.stream(refs, workers=workers, boxes=boxes, on_skip=skip):
        described.append((numbers[rows.image], rows))
        on_photo()
    problems = [_line(s) for s in skipped]
    if boxes is not None:
        boxes.expect_used()
        problems += [f"{entry}: {reason}" for entry, reason in boxes.problems]
    return Rows.of(described, model.dim, problems)


def describe_entries(
    model: EmbeddingModel,
    data: EvaluationSet,
    entries: Sequence[SetEntry],
    *,
    crop: str = "context",
    unboxed: str = WHOLE,
    workers: int = 2,
    on_photo: Callable[[], object] = lambda: None,
) -> Rows:
    """Describe boxes, or photos where the box is None; every photo is decoded once.

    Photos are decoded in full where boxes are cut out and looked at by themselves: a part needs pixels that the whole
    does not.

    Args:
        model: The model.
        data: The set that the entries belong to.
        entries: What to describe; they become items 0 to N - 1.
        crop: How a box is seen, as in ``Model.query``.
        unboxed: What becomes of an entry without a box: one row for the ``whole`` photo, or a row for each box that is
            meant by another word of ``Model.query``.
        workers: Decoding threads.
        on_photo: Called for each photo that is taken up.
    """
    by_file: dict[str, list[int]] = defaultdict(list)
    for number, entry in enumerate(entries):
        by_file[entry.file].append(number)
    refs = [ImageRef(file, data.photo(file)) for file in by_file]
    no_boxes = unboxed == WHOLE and all(e.box is None for e in entries)
    side = model.decode_side if no_boxes else model.query_side(crop)
    described: list[Numbered] = []
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
            described += _describe_photo(model, photo, {n: entries[n].box for n in fitting}, crop, unboxed)
        except (ObjembError, RuntimeError) as error:
            problems.append(f"{photo.id}: cannot be described: {error}")
    return Rows.of(described, model.dim, problems)


def _describe_photo(
    model: EmbeddingModel, photo: Photo, wanted: dict[int, Box | None], crop: str, unboxed: str
) -> list[Numbered]:
    """Numbered boxes of one photo; equal ones are described once."""
    distinct = list(dict.fromkeys(box for box in wanted.values() if box is not None))
    rows: dict[Box | None, RegionDescriptors] = {}
    if distinct:
        rows.update(zip(distinct, model.query(photo, distinct, crop=crop), strict=True))
    if None in wanted.values():
        rows[None] = model.query(photo, unboxed, crop=crop)
    return [(number, rows[box]) for number, box in wanted.items()]


def _line(skipped: SkippedImage) -> str:
    return f"{skipped.id}: {skipped.reason}"
