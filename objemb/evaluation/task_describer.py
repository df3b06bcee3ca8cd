"""Descriptors of a task, computed or loaded from a cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from objemb.datasets.evaluation_set import EvaluationSet
from objemb.detectors.base import Detector
from objemb.evaluation.ablation import BestBoxes
from objemb.evaluation.cache import ArrayCache, Cached, key_of, photo_facts
from objemb.evaluation.described import DescribedTask, describe_task, object_crop, only_vectors
from objemb.evaluation.feature_cache import with_feature_cache
from objemb.evaluation.retrieval_task import RetrievalTask
from objemb.models import EmbeddingModel
from objemb.structures import ImageRows, ImageWords
from objemb.types import AnyArray
from objemb.version import __version__

DATABASE, QUERIES = "database", "queries"


@dataclass(frozen=True)
class BoxSource:
    """The source of boxes of database photos.

    Attributes:
        detector: Gives the boxes; None for the model's own regions.
        identity: JSON-ready facts that identify the boxes, such as the checksum of their file.
    """

    detector: Detector | None = None
    identity: object = None

    @staticmethod
    def of_file(boxes: Detector | None) -> BoxSource:
        """The source of boxes that a detector has read from a file; None for the model's own regions."""
        return BoxSource(boxes, None if boxes is None else boxes.content_hash())


@dataclass(frozen=True)
class TaskDescriber:
    """Describes tasks of a set with one model.

    Attributes:
        model: The model.
        data: The set.
        boxes: The source of the boxes of database photos.
        crop: How query boxes are described, and at object level also the boxes of the database.
        query_boxes: The regions of a query without a box, as in ``Model.query``.
        workers: Number of decoding threads.
        cache: The folder of cached descriptors; None for no cache. For visual words, the local features are cached,
            because several models may compute words from them.
        on_note: Called with a message if the cache cannot be used.
    """

    model: EmbeddingModel
    data: EvaluationSet
    boxes: BoxSource
    crop: str
    query_boxes: str
    workers: int
    cache: Path | None = None
    on_note: Callable[[str], None] = lambda text: None

    def takes_boxes(self, task: RetrievalTask) -> bool:
        """Whether the database is described by the boxes of a detector, so that their number can be limited."""
        return task.level == "image" and (self.model.has_detector or self.boxes.detector is not None)

    def describe(
        self, task: RetrievalTask, max_regions: int | None = None, on_photo: Callable[[], object] = lambda: None
    ) -> tuple[DescribedTask, list[str]]:
        """The descriptors, and the parts (``database``, ``queries``) that were loaded from the cache.

        Args:
            task: The retrieval task.
            max_regions: Maximum number of boxes per database photo; None for the method's own maximum.
            on_photo: Called after each photo.
        """
        model, boxes = self.model, self.boxes.detector
        if max_regions is not None:
            model = model.limited(max_regions)
            boxes = None if boxes is None else BestBoxes(boxes, max_regions)

        kept_model, features = with_feature_cache(model, self.cache, self.on_note)

        def run(part: RetrievalTask, given: Detector | None) -> DescribedTask:
            spared = 0.0 if features is None else features.spared
            described = describe_task(
                kept_model,
                self.data,
                part,
                boxes=given,
                crop=self.crop,
                query_boxes=self.query_boxes,
                workers=self.workers,
                on_photo=on_photo,
            )
            if features is None:
                return described
            name = DATABASE if part.database else QUERIES
            took = described.seconds[name] + features.spared - spared  # as if the features had been computed now
            return replace(described, seconds={**described.seconds, name: took})

        stored = {"boxes": self.boxes.identity, "own_boxes": model.own_boxes, "max_regions": max_regions}
        if task.level == "object":
            stored["crop"] = object_crop(self.crop)
        database = self._part(task, DATABASE, stored, lambda: run(_only(task, DATABASE), boxes))
        asked = {"crop": self.crop, "query_boxes": self.query_boxes, "own_boxes": model.own_boxes}
        queries = self._part(task, QUERIES, asked, lambda: run(_only(task, QUERIES), None))
        parts = {DATABASE: database, QUERIES: queries}
        seconds = {name: part.seconds for name, part in parts.items()}
        reused = [name for name, part in parts.items() if part.reused]
        problems = (*database.problems, *queries.problems)
        return DescribedTask(database.rows, queries.rows, seconds, problems), reused

    def _part(
        self, task: RetrievalTask, name: str, facts: Mapping[str, object], run: Callable[[], DescribedTask]
    ) -> _Part:
        """One side of a task, from the cache if it is there."""
        entries = task.database if name == DATABASE else task.queries
        if self.cache is None or self.model.kernel is not None:  # computing words from cached features is fast
            return _Part.of(name, run())
        cache = ArrayCache(self.cache, self.on_note)
        key = key_of(
            {
                "version": __version__,
                "part": name,
                "level": task.level,
                "fingerprint": self.model.fingerprint,
                **self.model.computation,
                "photos": photo_facts(self.data.photo(file) for file in dict.fromkeys(e.file for e in entries)),
                "entries": _digest([(e.file, e.box) for e in entries]),
                **facts,
            }
        )
        cached = cache.load(key)
        if cached is not None:
            images = task.item_ids if name == DATABASE else tuple(e.file for e in entries)
            return _Part.of_cached(cached, images)
        part = _Part.of(name, run())
        cache.store(key, *part.to_cache())
        return part


@dataclass(frozen=True)
class _Part:
    """Rows of one side of a task, with the seconds that it took to describe them, now or in an earlier run."""

    rows: ImageRows | ImageWords
    seconds: float
    problems: tuple[str, ...]
    reused: bool = False

    @staticmethod
    def of(name: str, described: DescribedTask) -> _Part:
        rows = described.database if name == DATABASE else described.queries
        return _Part(rows, described.seconds[name], described.problems)

    @staticmethod
    def of_cached(entry: Cached, images: tuple[str, ...]) -> _Part:
        arrays, about = entry.arrays, entry.about
        rows = ImageRows(images, arrays["vectors"], arrays["items"], arrays["boxes"], arrays.get("sizes"))
        return _Part(rows, about["seconds"], tuple(about["problems"]), reused=True)

    def to_cache(self) -> tuple[dict[str, AnyArray], dict[str, object]]:
        rows = only_vectors("cache", self.rows)
        arrays: dict[str, AnyArray] = {"vectors": rows.vectors, "items": rows.items, "boxes": rows.boxes}
        if rows.sizes is not None:
            arrays["sizes"] = rows.sizes
        return arrays, {"seconds": self.seconds, "problems": list(self.problems)}


def _only(task: RetrievalTask, part: str) -> RetrievalTask:
    """The task with only one side, ``database`` or ``queries``."""
    return replace(task, database=()) if part == QUERIES else replace(task, queries=())


def _digest(rows: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
