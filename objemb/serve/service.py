"""What the service does with requests, independent of the framework that reads and answers them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, TypeVar, cast

import numpy as np

from objemb import checks
from objemb.detectors.base import Detector
from objemb.images.decode import UnreadableImageError
from objemb.images.inputs import View, as_regions
from objemb.images.sources import SkippedImage
from objemb.index.filters.parser import parse
from objemb.models.base import EmbeddingModel
from objemb.search.retrieval import Retrieval
from objemb.serve.batching import Batcher
from objemb.serve.current import Current, Opening
from objemb.serve.decoding import Decoders, UploadedPhoto
from objemb.serve.limits import MAX_BOXES, MAX_FILTER, MAX_HITS, MAX_LISTED, MAX_TEXT, MAX_VIEWS, Limits
from objemb.serve.metrics import Metrics
from objemb.serve.photos import IndexedPhotos, Thumbnails, not_indexed
from objemb.serve.problems import Problem
from objemb.serve.writes import Change, Writes
from objemb.structures import Described, Photo, RegionDescriptors, Regions
from objemb.structures.fields import metadata_to_json
from objemb.text import json_text
from objemb.version import __version__

if TYPE_CHECKING:  # these need pydantic
    from objemb.serve._bodies import DescribeRequest, DetectRequest, ImageWrite, SearchRequest, Source
    from objemb.serve._bodies import View as ViewRequest

T = TypeVar("T")

#: Work for the thread that computes, by itself.
Work: TypeAlias = Callable[[Retrieval], object]
#: The part of a form that is the photo of a request unless it names another.
PHOTO = "photo"


@dataclass(frozen=True)
class Options:
    """How a service is set up.

    Attributes:
        limits: What requests may ask for.
        photos: Folder in which the photos lie; None for the places that are recorded in the index.
        writable: Whether requests may change the index.
        rerankers: Re-rankers that requests may name, such as ``query_expansion,top=5``.
        decoders: Number of processes that decode photos.
    """

    limits: Limits = field(default_factory=Limits)
    photos: Path | None = None
    writable: bool = False
    rerankers: Sequence[str] = ()
    decoders: int = 2


@dataclass(frozen=True)
class Upload:
    """A file of a request.

    Attributes:
        name: Its name, as the client gives it; never a path that is opened.
        content: Its bytes.
    """

    name: str
    content: bytes


@dataclass(frozen=True, eq=False)
class SharedQuery:
    """A query that is answered together with others of the same kind.

    Attributes:
        view: Its photo and boxes.
        exclude: Ids of images to leave out.
        settings: The other arguments of :meth:`Retrieval.search_many`, equal for the queries of one pass: a search for
            more photos may be another one where it is approximate.
    """

    view: View
    exclude: Sequence[str]
    settings: tuple[tuple[str, object], ...]

    def __call__(self, retrieval: Retrieval) -> bytes:
        """The answer to this query by itself."""
        return _shared_answers(retrieval, [self])[0]


@dataclass(frozen=True, eq=False)
class Job:
    """Work that is queued for the thread that computes.

    Attributes:
        begun: The retrieval that its request began with, for whose model it was prepared.
        work: What is computed.
    """

    begun: Retrieval
    work: Work


class GivenBoxes(Detector):
    """The boxes that a request gives for its photo."""

    def __init__(self, regions: Regions) -> None:
        self._regions = regions

    def detect(self, photos: Sequence[Photo]) -> list[Regions]:
        """See :meth:`Detector.detect`."""
        return [self._regions for _ in photos]


class Service:
    """Searches, describes and detects; used from one event loop, computes on one thread.

    A request is prepared for the model that it begins with, and is computed with it, also if a migration is published
    meanwhile.

    Args:
        opening: The index and how its model is opened, again after a migration.
        options: How the service is set up.

    Raises:
        ArtefactMismatchError: The model did not make the index. Others as for :func:`open_retrieval`.
    """

    def __init__(self, opening: Opening, options: Options) -> None:
        retrieval = opening.first()
        self.options = options
        self.limits = options.limits
        self.metrics = Metrics()
        self._photos = IndexedPhotos(options.photos)
        retrieval.find_photo = self._photos.path_of  # re-rankers open no others
        self.current = Current(retrieval, opening.again, self.metrics.reload)
        self.stopping = False
        self._decoders = Decoders(options.decoders, self.limits)
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="objemb-read")
        self._batcher: Batcher[Job, object] = Batcher(self._compute, self.limits, self.metrics.batch)
        self._thumbnails = Thumbnails(self._photos, self._decoders, self.limits)
        self._writes = self._open_writes() if options.writable else None
        self.current.start()

    def close(self) -> None:
        """Finish what was accepted, and end threads and processes."""
        self.stopping = True
        if self._writes is not None:
            self._writes.close()
        self._batcher.close()
        self.current.close()
        self._threads.shutdown()
        self._decoders.close()

    async def search(self, asked: SearchRequest, uploads: Mapping[str, Upload]) -> bytes:
        """The answer to a query, as ``objemb search --json`` prints it."""
        if asked.where is not None:
            parse(asked.where)
        for step in asked.rerank or ():
            checks.one_of("rerank", step, self.options.rerankers or ("none that a request may name",))
        begun = self.current.retrieval
        if asked.at_most_false is not None and begun.index.calibration is None:
            raise Problem(422, "at_most_false: expected a calibrated index, see objemb calibrate, found one without")
        with self._batcher.announced():
            answered = self._computed(begun, await self._query(begun, asked, uploads))
        return await answered

    async def _query(
        self, begun: Retrieval, asked: SearchRequest, uploads: Mapping[str, Upload]
    ) -> Callable[[Retrieval], bytes]:
        """What answers a query, whose photos are decoded."""
        has_photo = asked.image is not None or asked.upload is not None or PHOTO in uploads or not asked.like
        first = await self._view(begun, asked, uploads, asked.crop) if has_photo else None
        like = [await self._view(begun, view, uploads, asked.crop) for view in asked.like]
        unlike = [await self._view(begun, view, uploads, asked.crop) for view in asked.unlike]
        names = ("k", "where", "min_score", "at_most_false", "crop", "exact")
        settings: dict[str, Any] = {name: getattr(asked, name) for name in names}
        reranked = bool(begun.model.rerankers if asked.rerank is None else asked.rerank)
        if first is not None and not like and not unlike and not reranked:
            return SharedQuery(first, asked.exclude, tuple(settings.items()))

        def answer(retrieval: Retrieval) -> bytes:
            result = retrieval.search(
                None if first is None else first.image,
                None if first is None else first.boxes,
                like=like,
                unlike=unlike,
                combine=asked.combine,
                exclude=asked.exclude,
                rerank=asked.rerank,
                **settings,
            )
            return json_line(result.to_json())

        return answer

    async def detect(self, asked: DetectRequest, uploads: Mapping[str, Upload]) -> bytes:
        """The objects of a photo: ``{"image", "size", "objects"}``."""
        begun = self.current.retrieval
        if not begun.model.has_detector:
            raise Problem(409, "detect: expected a model with a detector, found one without")
        with self._batcher.announced():
            photo = await self._photo(begun, asked, uploads)
            await self._decoded(photo, begun.model.decode_side)
            detected = self._computed(begun, lambda retrieval: retrieval.model.detect(photo))
        regions = await detected
        return json_line({"image": photo.name, "size": list(regions.size), "objects": _objects(regions)})

    async def describe(self, asked: DescribeRequest, uploads: Mapping[str, Upload]) -> bytes:
        """The vectors of the regions of a photo: ``{"image", "size", "regions"}``."""
        begun, boxes = self.current.retrieval, asked.boxes
        if begun.model.gives is not RegionDescriptors:
            raise Problem(409, "describe: expected a model of vectors, found one of visual words")
        with self._batcher.announced():
            photo = await self._photo(begun, asked, uploads)
            await self._prepare(begun, photo, boxes, "context")
            computed = self._computed(begun, lambda retrieval: retrieval.model.describe(photo, boxes))
        described = await computed
        assert isinstance(described, RegionDescriptors)
        return json_line(
            {"image": photo.name, "size": list(described.regions.size), "regions": _described_regions(described)}
        )

    async def stored(self, image: str) -> bytes:
        """What is stored of an indexed image."""
        return await self._read(lambda: self._stored(self.current.retrieval, image))

    async def listed(self, start: int, limit: int, where: str | None) -> bytes:
        """Ids of indexed images, in the order in which they were added, or of those that match a filter."""
        return await self._read(lambda: self._listed(self.current.retrieval, start, limit, where))

    async def thumbnail(self, image: str, side: int, known: str | None) -> tuple[bytes | None, str]:
        """The thumbnail of an indexed image, and its tag; None if the client has the one of this tag."""
        retrieval = self.current.retrieval
        mark = self._thumbnails.mark(retrieval, image, side)
        if known == f'"{mark}"':
            return None, mark
        made = asyncio.get_running_loop().run_in_executor(
            self._decoders.threads, self._thumbnails.thumbnail, retrieval, image, side
        )
        return await made, mark

    async def put(self, image: str, asked: ImageWrite, uploads: Mapping[str, Upload]) -> tuple[bool, bytes]:
        """Add or replace an image; whether it was there, and what is stored of it now."""
        writes = self._expect_writable()
        if PHOTO not in uploads or len(image) > MAX_TEXT or not image:
            raise Problem(
                422, "body: expected a form with the part 'photo', and an id that is not too long, found none"
            )
        begun, content = self.current.retrieval, uploads[PHOTO].content
        photo = UploadedPhoto(content, image, self._decoders)
        with self._batcher.announced():
            decoded = replace(await self._decoded(photo, begun.model.decode_side), metadata=asked.metadata)
            boxes = None if asked.boxes is None else GivenBoxes(_given(asked, decoded.size))
            computed = self._computed(begun, lambda retrieval: _as_indexed(retrieval.model, decoded, boxes))
        change = Change(image, await computed, content, begun.model.fingerprint, given=boxes is not None)
        was_there = await asyncio.wrap_future(writes.submit(change))
        return was_there, await self.stored(image)

    async def delete(self, image: str) -> bytes:
        """Delete an image."""
        writes = self._expect_writable()
        if not await asyncio.wrap_future(writes.submit(Change(image))):
            raise not_indexed()
        return json_line({"deleted": image})

    async def info(self) -> bytes:
        """The index, its model, and what requests may ask for; no path of this machine."""
        return await self._read(lambda: self._info(self.current.retrieval))

    def readiness(self) -> dict[str, str]:
        """That requests are answered, and of which publication of the index.

        Raises:
            Problem: The service is stopping.
        """
        if self.stopping:
            raise Problem(503, "service: expected one that answers, found one that is stopping", retry=1)
        refused = self.current.refused
        return {"status": "ok", "index": "newest" if refused is None else f"older, as of the newest one {refused}"}

    def figures(self, held_bytes: int) -> bytes:
        """All figures, for Prometheus."""
        index = self.current.retrieval.index
        return self.metrics.text(
            queue=len(self._batcher),
            held_bytes=held_bytes,
            index_generation=index.generation,
            index_stale=self.current.refused is not None,
            index_images=len(index),
            index_rows=index.info()["regions"],
        )

    def _open_writes(self) -> Writes:
        where = self.current.retrieval.index.address
        return Writes(where, self.options.photos, self.limits, self.current.follow)

    def _expect_writable(self) -> Writes:
        if self._writes is None:
            raise Problem(403, "index: expected a service that was started with --writable, found one that only reads")
        return self._writes

    def _compute(self, jobs: Sequence[Job]) -> list[object]:
        """Run a batch, each job on the newest state with its model; queries of one kind share a scan."""
        newest = self.current.retrieval
        groups: dict[object, list[int]] = {}
        for number, job in enumerate(jobs):
            kind = job.work.settings if isinstance(job.work, SharedQuery) else number
            groups.setdefault((job.begun.model.fingerprint, kind), []).append(number)
        results: dict[int, object] = {}
        for numbers in groups.values():
            begun = jobs[numbers[0]].begun
            retrieval = newest if newest.model is begun.model else begun
            shared = [work for number in numbers if isinstance(work := jobs[number].work, SharedQuery)]
            if len(shared) > 1:
                # one that fails must not fail the others, which are then answered one by one
                with contextlib.suppress(Exception):
                    results |= zip(numbers, _shared_answers(retrieval, shared), strict=True)
                    continue
            results |= {number: _result(jobs[number].work, retrieval) for number in numbers}
        return [results[number] for number in range(len(jobs))]

    def _computed(self, begun: Retrieval, work: Callable[[Retrieval], T]) -> asyncio.Future[T]:
        """The result of work that is queued for the thread that computes. Raises :class:`Problem` if it is full."""
        return asyncio.wrap_future(cast("Future[T]", self._batcher.submit(Job(begun, work))))

    async def _read(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _view(self, begun: Retrieval, asked: ViewRequest, uploads: Mapping[str, Upload], crop: str) -> View:
        photo = await self._photo(begun, asked, uploads)
        await self._prepare(begun, photo, asked.boxes, crop)
        return View(photo, asked.boxes)

    async def _photo(self, begun: Retrieval, asked: Source, uploads: Mapping[str, Upload]) -> UploadedPhoto:
        """The photo that a request names, not yet decoded."""
        if asked.image is not None and asked.upload is not None:
            raise Problem(422, "photo: expected one of 'upload' and 'image', found both")
        if asked.image is not None:
            image = asked.image
            content = await self._read(lambda: self._photos.content_of(begun.index, image, self.limits.pixels))
            return UploadedPhoto(content, image, self._decoders)
        name = asked.upload or PHOTO
        if name not in uploads:
            found = checks.listed(uploads) or "no file"
            raise Problem(422, f"photo: expected a part {name!r} of the form with a file, or 'image', found {found}")
        return UploadedPhoto(uploads[name].content, uploads[name].name, self._decoders)

    async def _decoded(self, photo: UploadedPhoto, side: int | None, part: float | None = None) -> Photo:
        return await asyncio.get_running_loop().run_in_executor(
            self._decoders.threads, photo.decoded, side, part, self.limits.pixels
        )

    async def _prepare(
        self, begun: Retrieval, photo: UploadedPhoto, boxes: Sequence[Sequence[float]] | str | None, crop: str
    ) -> None:
        """Check boxes, and decode their photo as the model will ask for it, so that it does not wait."""
        model = begun.model
        decoded = await self._decoded(photo, model.decode_side)
        if boxes is None or isinstance(boxes, str):
            return
        regions = as_regions(boxes, decoded.size)
        part = None if crop == "whole" else model.least_cut_side(regions, crop)
        if part is not None and decoded.scale != (1.0, 1.0):
            await self._decoded(photo, model.decode_side, part)

    def _stored(self, retrieval: Retrieval, image: str) -> bytes:
        described = retrieval.index.get(image)
        if described is None:
            raise not_indexed()
        photo = self._photos.path_of(retrieval.index, image) is not None
        return json_line(
            {
                "image": image,
                "size": list(described.regions.size),
                "regions": _objects(described.regions),
                "metadata": metadata_to_json(described.metadata),
                "photo": photo,
            }
        )

    def _listed(self, retrieval: Retrieval, start: int, limit: int, where: str | None) -> bytes:
        index = retrieval.index
        if where is None:
            total = len(index)
            images = [stored.id for stored in islice(index.images(start), limit)]
        else:
            matching = index.find(where)
            total, images = len(matching), matching[start : start + limit]
        end = start + len(images)
        return json_line({"images": images, "total": total, "next": end if end < total else None})

    def _info(self, retrieval: Retrieval) -> bytes:
        index, model = retrieval.index, retrieval.model
        facts = index.info()
        return json_line(
            {
                "version": __version__,
                "index": {
                    "name": index.name,
                    "generation": index.generation,
                    "refused": self.current.refused,
                    "columns": index.columns(),
                    "labels": index.labels(),
                    "calibrated": index.calibration is not None,
                    **{name: facts[name] for name in ("images", "regions", "bytes", "updated", "approximate")},
                },
                "model": {
                    "method": model.settings["describer"]["name"],
                    "fingerprint": model.fingerprint,
                    "dim": model.dim,
                    "detector": model.has_detector,
                    "per_region": model.per_region,
                    "untrained": model.untrained,
                    "rerankers": [step.registry_name for step in model.rerankers],
                },
                "rerankers": list(self.options.rerankers),
                "writable": self._writes is not None,
                "limits": {
                    **{"body_bytes": self.limits.body_bytes, "pixels": self.limits.pixels, "boxes": MAX_BOXES},
                    **{"views": MAX_VIEWS, "k": MAX_HITS, "where": MAX_FILTER, "page": MAX_LISTED},
                },
            }
        )


def _result(work: Work, retrieval: Retrieval) -> object:
    try:
        return work(retrieval)
    except Exception as error:
        return error


def _shared_answers(retrieval: Retrieval, queries: Sequence[SharedQuery]) -> list[bytes]:
    """The answers to queries of equal settings, in one pass over the index. Each photo has a forward pass of its own,
    so that an answer does not depend on the others, not even in its last digit."""
    settings: dict[str, Any] = dict(queries[0].settings)
    views, excluded = [query.view for query in queries], [query.exclude for query in queries]
    found = retrieval.search_many(views, exclude=excluded, rerank=(), together=False, on_skip=None, **settings)
    return [json_line(result.to_json()) for result in found]


def json_line(document: object) -> bytes:
    """A document as ``objemb ... --json`` prints it where stdout is UTF-8."""
    return (json_text(document) + "\n").encode()


def _as_indexed(model: EmbeddingModel, photo: Photo, boxes: Detector | None) -> Described:
    """The rows of a photo as ``objemb index`` makes them."""

    def refuse(skipped: SkippedImage) -> NoReturn:
        raise UnreadableImageError(skipped.reason, skipped.id)

    return next(iter(model.stream([photo], batch_size=1, workers=0, boxes=boxes, on_skip=refuse)))


def _objects(regions: Regions) -> list[dict[str, object]]:
    rows = zip(regions.boxes.tolist(), regions.scores.tolist(), regions.label_names, strict=True)
    return [{"box": box, "score": score, "label": label} for box, score, label in rows]


def _described_regions(described: RegionDescriptors) -> list[dict[str, object]]:
    vectors = described.vectors.astype(np.float32).tolist()
    return [{**one, "vector": vector} for one, vector in zip(_objects(described.regions), vectors, strict=True)]


def _given(asked: ImageWrite, size: tuple[int, int]) -> Regions:
    """The boxes of an image that is written, with its labels."""
    boxes = as_regions(asked.boxes or (), size)
    labels = asked.labels or [None] * len(boxes)
    if len(labels) != len(boxes):
        raise ValueError(f"labels: expected one for each of {len(boxes)} boxes, found {len(labels)}")
    classes = tuple(sorted({label for label in labels if label is not None}))
    numbers = [-1 if label is None else classes.index(label) for label in labels]
    return Regions(boxes.boxes, size, labels=np.array(numbers, np.int64), classes=classes)
