"""What the service does with requests, independent of the framework that reads and answers them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np

from objemb import checks
from objemb.detectors.base import Detector
from objemb.images.decode import UnreadableImageError
from objemb.images.inputs import View, as_regions
from objemb.images.sources import SkippedImage
from objemb.index.filters.parser import parse
from objemb.models.base import EmbeddingModel
from objemb.search.retrieval import Retrieval
from objemb.serve import answers
from objemb.serve.batching import Batcher, Room
from objemb.serve.current import Current, Opening
from objemb.serve.decoding import Decoders, UploadedPhoto
from objemb.serve.limits import MAX_TEXT, Limits
from objemb.serve.metrics import Metrics
from objemb.serve.photos import IndexedPhotos, Thumbnails, not_indexed
from objemb.serve.problems import Problem
from objemb.serve.sharing import SharedPasses, WaitingQuery
from objemb.serve.writes import Change, Writes
from objemb.structures import Described, Photo, RegionDescriptors, Regions

if TYPE_CHECKING:  # these need pydantic
    from objemb.serve._bodies import DescribeRequest, DetectRequest, ImageWrite, SearchRequest, Source
    from objemb.serve._bodies import View as ViewRequest

T = TypeVar("T")

#: The part of a form that is the photo of a request unless it names another.
PHOTO = "photo"
#: Bytes of a decoded photo that may wait for a forward pass to share; a larger one is described at once.
MAX_WAITING_BYTES = 48 * 2**20
#: Threads that read the index for requests without a photo.
READERS = 4


@dataclass(frozen=True)
class Options:
    """How a service is set up.

    Attributes:
        limits: What requests may ask for.
        photos: Folder in which the photos lie; None for the places that are recorded in the index.
        writable: Whether requests may change the index.
        rerankers: Re-rankers that requests may name, such as ``query_expansion,top=5``.
        decoders: Number of processes that decode photos; as many threads describe them.
        fill_passes: Whether all forward passes that queries may share have equally many, see :class:`SharedPasses`.
    """

    limits: Limits = field(default_factory=Limits)
    photos: Path | None = None
    writable: bool = False
    rerankers: Sequence[str] = ()
    decoders: int = 2
    fill_passes: bool = False


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
class DescribedQuery:
    """A query that waits for a pass over the index.

    Attributes:
        begun: The retrieval that its request began with, whose model described it.
        rows: What is searched for.
        exclude: Ids of images to leave out.
        settings: The other arguments of :meth:`Retrieval.search_described`, equal for the queries of one pass: a search
            for more photos may be another one where it is approximate.
    """

    begun: Retrieval
    rows: Described
    exclude: Sequence[str]
    settings: tuple[tuple[str, object], ...]


class GivenBoxes(Detector):
    """The boxes that a request gives for its photo."""

    def __init__(self, regions: Regions) -> None:
        self._regions = regions

    def detect(self, photos: Sequence[Photo]) -> list[Regions]:
        """See :meth:`Detector.detect`."""
        return [self._regions for _ in photos]


class Service:
    """Searches, describes and detects; used from one event loop.

    As many photos are decoded, and as many forward passes are made, at a time as there are decoders. Queries of the
    same time share forward passes, where answers are then the same, and passes over the index, which one thread makes.
    A request is answered with the model that it begins with, also if a migration is published meanwhile.

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
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="objemb-read")
        self._room = Room(self.limits)
        limits = self.limits
        passes = SharedPasses(limits.passes, filled=options.fill_passes, on_pass=self.metrics.forward_pass)
        self._passes: Batcher[WaitingQuery, Described] = Batcher(
            passes.describe,
            "objemb-describe",
            most=limits.passes,
            window=limits.window,
            threads=options.decoders,
            kind=lambda waiting: waiting.kind,
        )
        self._searches: Batcher[DescribedQuery, bytes] = Batcher(
            self._search, "objemb-search", most=limits.batch, window=limits.window, on_batch=self.metrics.batch
        )
        self._open_photos = asyncio.Semaphore(options.decoders * limits.passes)
        self._thumbnails = Thumbnails(self._photos, self._decoders, self.limits)
        self._writes = self._open_writes() if options.writable else None
        self.current.start()

    def close(self) -> None:
        """Finish what was accepted, and end threads and processes."""
        self.stopping = True
        if self._writes is not None:
            self._writes.close()
        self._passes.close()
        self._searches.close()
        self.current.close()
        self._readers.shutdown()
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
        names = ("k", "where", "min_score", "at_most_false", "exact")
        settings: dict[str, Any] = {name: getattr(asked, name) for name in names}
        reranked = bool(begun.model.rerankers if asked.rerank is None else asked.rerank)
        with self._room.taken():
            if reranked or asked.like or asked.unlike:
                return await self._with_photos(lambda: self._search_views(begun, asked, uploads, settings))
            with self._searches.announced():
                rows = await self._described(begun, asked, uploads)
                found = self._searches.submit(DescribedQuery(begun, rows, asked.exclude, tuple(settings.items())))
            return await asyncio.wrap_future(found)

    async def detect(self, asked: DetectRequest, uploads: Mapping[str, Upload]) -> bytes:
        """The objects of a photo: ``{"image", "size", "objects"}``."""
        begun = self.current.retrieval
        if not begun.model.has_detector:
            raise Problem(409, "detect: expected a model with a detector, found one without")

        def detect() -> bytes:
            photo = self._photo(begun, asked, uploads)
            return answers.detected(photo.name, begun.model.detect(photo))

        with self._room.taken():
            return await self._with_photos(detect)

    async def describe(self, asked: DescribeRequest, uploads: Mapping[str, Upload]) -> bytes:
        """The vectors of the regions of a photo: ``{"image", "size", "regions"}``."""
        begun = self.current.retrieval
        if begun.model.gives is not RegionDescriptors:
            raise Problem(409, "describe: expected a model of vectors, found one of visual words")

        def describe() -> bytes:
            photo = self._photo(begun, asked, uploads)
            rows = begun.model.describe(photo, asked.boxes)
            assert isinstance(rows, RegionDescriptors)
            return answers.described(photo.name, rows)

        with self._room.taken():
            return await self._with_photos(describe)

    async def stored(self, image: str) -> bytes:
        """What is stored of an indexed image."""
        index = self.current.retrieval.index

        def read() -> bytes:
            return answers.stored(index, image, has_photo=self._photos.path_of(index, image) is not None)

        return await _on(self._readers, read)

    async def listed(self, start: int, limit: int, where: str | None) -> bytes:
        """Ids of indexed images, in the order in which they were added, or of those that match a filter."""
        index = self.current.retrieval.index
        return await _on(self._readers, lambda: answers.listed(index, start, limit, where))

    async def thumbnail(self, image: str, side: int, known: str | None) -> tuple[bytes | None, str]:
        """The thumbnail of an indexed image, and its tag; None if the client has the one of this tag."""
        retrieval = self.current.retrieval
        mark = self._thumbnails.mark(retrieval, image, side)
        if known == f'"{mark}"':
            return None, mark
        return await self._with_photos(lambda: self._thumbnails.thumbnail(retrieval, image, side)), mark

    async def put(self, image: str, asked: ImageWrite, uploads: Mapping[str, Upload]) -> tuple[bool, bytes]:
        """Add or replace an image; whether it was there, and what is stored of it now."""
        writes = self._expect_writable()
        if PHOTO not in uploads or len(image) > MAX_TEXT or not image:
            raise Problem(
                422, "body: expected a form with the part 'photo', and an id that is not too long, found none"
            )
        model, content = self.current.retrieval.model, uploads[PHOTO].content

        def describe() -> Described:
            encoded = UploadedPhoto(content, image, self._decoders)
            photo = replace(encoded.decoded(model.decode_side, None, self.limits.pixels), metadata=asked.metadata)
            boxes = None if asked.boxes is None else GivenBoxes(_given(asked, photo.size))
            return _as_indexed(model, photo, boxes)

        with self._room.taken():
            rows = await self._with_photos(describe)
        change = Change(image, rows, content, model.fingerprint, given=asked.boxes is not None)
        was_there = await asyncio.wrap_future(writes.submit(change))
        return was_there, await self.stored(image)

    async def delete(self, image: str) -> bytes:
        """Delete an image."""
        writes = self._expect_writable()
        if not await asyncio.wrap_future(writes.submit(Change(image))):
            raise not_indexed()
        return answers.json_line({"deleted": image})

    async def info(self) -> bytes:
        """The index, its model, and what requests may ask for; no path of this machine."""
        retrieval = self.current.retrieval

        def read() -> bytes:
            return answers.info(
                retrieval.index,
                retrieval.model,
                self.limits,
                refused=self.current.refused,
                rerankers=self.options.rerankers,
                writable=self._writes is not None,
            )

        return await _on(self._readers, read)

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
            queue=len(self._room),
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

    async def _with_photos(self, work: Callable[[], T]) -> T:
        """The result of work that decodes photos, on one of the threads for that."""
        return await _on(self._decoders.threads, work)

    async def _described(self, begun: Retrieval, asked: SearchRequest, uploads: Mapping[str, Upload]) -> Described:
        """A described query of one view, in a forward pass that it may share."""
        async with self._open_photos:  # decoded photos are large
            with self._passes.announced():
                opened = await self._with_photos(lambda: self._opened(begun, asked, uploads))
                if not isinstance(opened, WaitingQuery):
                    return opened
                described = self._passes.submit(opened)
            return await asyncio.wrap_future(described)

    def _opened(
        self, begun: Retrieval, asked: SearchRequest, uploads: Mapping[str, Upload]
    ) -> WaitingQuery | Described:
        """A decoded query that may share a forward pass, or the description of one that may not."""
        model, view = begun.model, self._view(begun, asked, uploads)
        query = model.open_query(view.image, view.boxes, crop=asked.crop, max_pixels=begun.max_pixels)
        shapes = model.shapes_of(query) if query.photo.pixels.nbytes <= MAX_WAITING_BYTES else None
        if shapes is not None:
            return WaitingQuery(model, query, shapes)
        self.metrics.forward_pass(1)
        return model.query_opened([query])[0]

    def _search_views(
        self, begun: Retrieval, asked: SearchRequest, uploads: Mapping[str, Upload], settings: Mapping[str, Any]
    ) -> bytes:
        """The answer to a query that shares no pass: one of several views, or with re-rankers."""
        has_photo = asked.image is not None or asked.upload is not None or PHOTO in uploads or not asked.like
        first = self._view(begun, asked, uploads) if has_photo else None
        found = self._newest(begun).search(
            None if first is None else first.image,
            None if first is None else first.boxes,
            like=[self._view(begun, view, uploads) for view in asked.like],
            unlike=[self._view(begun, view, uploads) for view in asked.unlike],
            combine=asked.combine,
            exclude=asked.exclude,
            crop=asked.crop,
            rerank=asked.rerank,
            **settings,
        )
        return answers.json_line(found.to_json())

    def _search(self, queries: Sequence[DescribedQuery]) -> list[bytes | Exception]:
        """Answer a batch, each query on the newest state with its model; those of one kind share a pass."""
        groups: dict[object, list[int]] = {}
        for number, query in enumerate(queries):
            groups.setdefault((query.begun.model.fingerprint, query.settings), []).append(number)
        results: dict[int, bytes | Exception] = {}
        for numbers in groups.values():
            group = [queries[number] for number in numbers]
            retrieval = self._newest(group[0].begun)
            if len(group) > 1:
                # one that fails must not fail the others, which are then answered one by one
                with contextlib.suppress(Exception):
                    results |= zip(numbers, _answers(retrieval, group), strict=True)
                    continue
            results |= {number: _answer(retrieval, queries[number]) for number in numbers}
        return [results[number] for number in range(len(queries))]

    def _newest(self, begun: Retrieval) -> Retrieval:
        """The newest state of the index whose rows are of the model that a request began with."""
        newest = self.current.retrieval
        return newest if newest.model is begun.model else begun

    def _view(self, begun: Retrieval, asked: ViewRequest, uploads: Mapping[str, Upload]) -> View:
        return View(self._photo(begun, asked, uploads), asked.boxes)

    def _photo(self, begun: Retrieval, asked: Source, uploads: Mapping[str, Upload]) -> UploadedPhoto:
        """The photo that a request names, not yet decoded."""
        if asked.image is not None and asked.upload is not None:
            raise Problem(422, "photo: expected one of 'upload' and 'image', found both")
        if asked.image is not None:
            content = self._photos.content_of(begun.index, asked.image, self.limits.pixels)
            return UploadedPhoto(content, asked.image, self._decoders)
        name = asked.upload or PHOTO
        if name not in uploads:
            found = checks.listed(uploads) or "no file"
            raise Problem(422, f"photo: expected a part {name!r} of the form with a file, or 'image', found {found}")
        return UploadedPhoto(uploads[name].content, uploads[name].name, self._decoders)


async def _on(threads: Executor, work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(threads, work)


def _answers(retrieval: Retrieval, queries: Sequence[DescribedQuery]) -> list[bytes]:
    """The answers to queries of equal settings, in one pass over the index."""
    settings: dict[str, Any] = dict(queries[0].settings)
    rows, excluded = [query.rows for query in queries], [query.exclude for query in queries]
    found = retrieval.search_described(rows, exclude=excluded, rerank=(), **settings)
    return [answers.json_line(result.to_json()) for result in found]


def _answer(retrieval: Retrieval, query: DescribedQuery) -> bytes | Exception:
    try:
        return _answers(retrieval, [query])[0]
    except Exception as error:
        return error


def _as_indexed(model: EmbeddingModel, photo: Photo, boxes: Detector | None) -> Described:
    """The rows of a photo as ``objemb index`` makes them."""

    def refuse(skipped: SkippedImage) -> NoReturn:
        raise UnreadableImageError(skipped.reason, skipped.id)

    return next(iter(model.stream([photo], batch_size=1, workers=0, boxes=boxes, on_skip=refuse)))


def _given(asked: ImageWrite, size: tuple[int, int]) -> Regions:
    """The boxes of an image that is written, with its labels."""
    boxes = as_regions(asked.boxes or (), size)
    labels = asked.labels or [None] * len(boxes)
    if len(labels) != len(boxes):
        raise ValueError(f"labels: expected one for each of {len(boxes)} boxes, found {len(labels)}")
    classes = tuple(sorted({label for label in labels if label is not None}))
    numbers = [-1 if label is None else classes.index(label) for label in labels]
    return Regions(boxes.boxes, size, labels=np.array(numbers, np.int64), classes=classes)
