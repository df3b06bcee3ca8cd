"""Retrieval: search an index with a photo and boxes, a model and its re-rankers."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TypeVar

from objemb import checks, registry
from objemb.checks import ObjembError
from objemb.config import parse_part
from objemb.images.decode import MAX_PIXELS, UnreadableImageError, read_photo
from objemb.images.inputs import BoxesLike, ImageLike, View, as_encoded, as_photo, as_view
from objemb.images.sources import SkippedImage
from objemb.index.collection import ImageCollection
from objemb.index.filters.parser import parse
from objemb.index.storage.calibration import Calibration
from objemb.models.base import QUERIES_AT_ONCE, EmbeddingModel
from objemb.models.stream import log_skipped
from objemb.rerank._database import IndexDatabase
from objemb.rerank.base import Reranker, search_and_rerank
from objemb.search.combiners.base import Combiner
from objemb.search.indexing import ids_of, indexed_photo, photo_path
from objemb.search.kinds import check_model
from objemb.search.views import SAMPLE, SeveralViews, as_combiner
from objemb.search.words import search_words
from objemb.structures import Described, Photo, SearchResult, VisualWords
from objemb.structures.described import expect_vectors
from objemb.visualize.notebook import result_html

T = TypeVar("T")

#: Databases that are kept between re-ranked queries, one per filter; what some re-rankers make of all rows is kept with
#: them, and may be larger than the index.
HELD_DATABASES = 2


class Retrieval:
    """A model and an index made with it: the common search interface of Python, ``objemb search`` and services.

    Several threads may search at once. Changes of the index object (writing, ``refresh``) must not overlap with a
    search; in a service that searches continuously, open a new object and replace this one by it.

    Args:
        model: The model that describes the queries.
        index: The index to search. After ``index.refresh()`` its new state is searched.
        max_pixels: Maximum number of pixels of photos that are opened, as queries or by re-rankers.
        find_photo: Finds the photo of an indexed image, given the index and the id of the image, for
            :meth:`photo_of` and re-rankers; None for the place that is recorded in the index.

    Raises:
        ArtefactMismatchError: The index was made with another model.
    """

    def __init__(
        self,
        model: EmbeddingModel,
        index: ImageCollection,
        *,
        max_pixels: int = MAX_PIXELS,
        find_photo: Callable[[ImageCollection, str], Path | None] | None = None,
    ) -> None:
        checks.whole("max_pixels", max_pixels)
        check_model(index, model.gives, model.settings, model.fingerprint)
        self.model = model
        self.index = index
        self.max_pixels = max_pixels
        self.find_photo = find_photo
        self._lock = Lock()
        self._state = index.state
        self._stamps: dict[str, str | None] | None = None
        self._databases: OrderedDict[tuple[object, ...], IndexDatabase] = OrderedDict()

    def search(
        self,
        image: ImageLike | None = None,
        boxes: BoxesLike | str | None = None,
        *,
        like: Sequence[View | ImageLike] = (),
        unlike: Sequence[View | ImageLike] = (),
        combine: str | Combiner = "best",
        k: int = 10,
        where: str | None = None,
        exclude: str | Collection[str] = (),
        min_score: float | None = None,
        at_most_false: float | None = None,
        crop: str = "context",
        rerank: Sequence[str | Reranker] | None = None,
        exact: bool | None = None,
    ) -> SearchResult:
        """Find the photos that show the same object, with the pairs of boxes that matched.

        Args:
            image: The query: a path, bytes, a PIL image, an array ``(H, W, 3)`` ..., as for :meth:`Model.describe`.
                None if there are views in ``like``.
            boxes: The objects to search for: rows of x1, y1, x2, y2 in original pixels of the query, one of the words
                ``whole``, ``detector`` and ``both``, or None for the default of the model; as for :meth:`Model.query`.
            like: Further views of the same object: images, or :class:`~objemb.images.inputs.View` objects with boxes.
            unlike: Counter-examples, likewise.
            combine: How views and counter-examples become one query: a combiner, or a text such as
                ``mean,margin=0.1``. ``best``: the best match of any view counts. ``mean``: the mean of their vectors.
                ``classifier``: a linear classifier of the views against a sample of the index. With ``best`` and
                ``mean``, boxes that are closer to a counter-example than to the views, less the margin, have a lower
                score; ``classifier`` learns from counter-examples. Without ``like`` and ``unlike`` it is not used.
            k: Maximum number of photos; fewer are returned if the index, or the filter, has no more.
            where: A filter on ``label``, ``score``, ``image`` and metadata, see :mod:`objemb.index.filters.parser`.
            exclude: Ids of images to leave out, such as those of :meth:`ids_of`; other images take their places.
            min_score: Leave out photos with a lower score, on the scale of the last re-ranker if there is one.
            at_most_false: Leave out photos from whose score on more photos without the object are expected, such as
                0.01; needs a calibrated index, see :func:`objemb.search.calibration.calibrate`.
            crop: How a box is described: ``context``, ``crop``, ``scaled`` or ``whole``, as for :meth:`Model.query`.
            rerank: Re-rankers to apply, in order: objects, or texts such as ``query_expansion,top=5``. None for those
                of the model, an empty list for none. Re-rankers read the rows of the hits;
                ``database_augmentation`` and ``diffusion`` hold all rows in memory, and search them exactly.
            exact: True for exact search, False for approximate search, None to choose by the size of the index; with
                re-rankers, this holds for each of their searches in the index.

        Returns:
            The photos, best first, with boxes in original pixels. Labels and metadata are those of the index; ``scale``
            is the meaning of the scores, and ``p_false`` of hits what the calibration of the index says of them.

        Raises:
            FileNotFoundError, UnreadableImageError: The query does not exist or is not a readable image.
            WhereError: The filter is not valid.
            ValueError, TypeError: Boxes are outside the photo, ``detector`` is used without a detector, or a re-ranker
                does not exist or needs something that is missing, such as the paths of the indexed photos, or the photo
                of the query where there are several views; or there are re-rankers together with counter-examples or a
                classifier, whose scores they would replace; or ``at_most_false`` is too small to be estimated.
        """
        if isinstance(image, (list, tuple)):
            raise TypeError(
                f"image: expected one photo, found a {type(image).__name__}; search_many searches for each of several "
                "photos, and like= is for several views of one object"
            )
        if not (like or unlike):
            if image is None:
                raise ValueError("image: expected a photo, or views in like (--like), found neither")
            (result,) = self.search_many(
                [View(image, boxes)],
                k=k,
                where=where,
                exclude=[exclude],
                min_score=min_score,
                at_most_false=at_most_false,
                crop=crop,
                rerank=rerank,
                exact=exact,
                on_skip=None,
            )
            return result

        rerankers = self.model.rerankers if rerank is None else _rerankers(rerank)
        if where is not None:
            parse(where)
        views = [*([] if image is None else [View(image, boxes)]), *(as_view("like", view) for view in like)]
        views = [replace(view, image=as_encoded(view.image)) for view in views]
        combiner = as_combiner(combine)
        calibration = self._calibration(at_most_false, rerankers, combiner)
        several = self._views(views, [as_view("unlike", view) for view in unlike], combiner, crop)
        query = several.query(partial(self.index.sample, SAMPLE))
        if rerankers and (unlike or combiner.margin is None):
            raise ValueError(
                "rerank: expected no re-rankers, whose scores would replace those of counter-examples and "
                f"classifiers, found {checks.listed([r.registry_name for r in rerankers])}; --rerank none "
                "(rerank=[]) searches without them"
            )
        least = -math.inf if min_score is None else checks.between("min_score", min_score, -math.inf, math.inf)

        answers = partial(
            self._answers,
            [query],
            [None],
            rerankers=rerankers,
            where=where,
            exclude=[exclude],
            min_score=None,
            exact=exact,
        )
        less_unlike = several.less_unlike(query, lambda depth: answers(depth)[0], self.index, k, where)
        found = several.result(less_unlike, self.index)
        kept = replace(found, hits=tuple(hit for hit in found if hit.score >= least))
        calibrated = _with_expected_false(kept, calibration, at_most_false, len(query), len(self.index))
        return self._with_photos(calibrated, [view.image for view in views])

    def search_many(
        self,
        queries: Sequence[View | ImageLike],
        *,
        k: int = 10,
        where: str | None = None,
        exclude: Sequence[str | Collection[str]] | None = None,
        min_score: float | None = None,
        at_most_false: float | None = None,
        crop: str = "context",
        rerank: Sequence[str | Reranker] | None = None,
        exact: bool | None = None,
        on_skip: Callable[[SkippedImage], None] | None = log_skipped,
    ) -> list[SearchResult]:
        """Search for each of several photos: the answers of :meth:`search`, in less time, since photos of equal shape
        share a forward pass, whose vectors are those of single ones up to rounding (1e-6), and all queries a pass over
        the vectors of the index.

        Args:
            queries: Images, or :class:`~objemb.images.inputs.View` objects with boxes, each a query of its own.
            exclude: Ids to leave out, one entry per query.
            k, where, min_score, at_most_false, crop, rerank, exact: As for :meth:`search`, for all queries.
            on_skip: Called with each query that cannot be described, such as a photo that is missing or broken, or one
                with boxes outside it; by default a warning is logged. None to raise the error of the first one. The id
                of a query that has no path is its number.

        Returns:
            One result per query, in order. That of a skipped query has no hits, and :attr:`SearchResult.skipped` is the
            reason.

        Raises:
            FileNotFoundError, UnreadableImageError, ValueError: As for :meth:`search`, if ``on_skip`` is None.
            WhereError, ValueError, TypeError: As for :meth:`search`, for arguments that hold for all queries.
        """
        if isinstance(queries, (str, bytes, Path, View)) or not isinstance(queries, Sequence):
            raise TypeError(f"queries: expected a list of images or views, found {type(queries).__name__}")
        rerankers = self.model.rerankers if rerank is None else _rerankers(rerank)
        if where is not None:
            parse(where)
        views = [as_view("queries", query) for query in queries]
        left_out = _for_each("exclude", exclude, len(views), ())
        self._calibration(at_most_false, rerankers)  # what is missing is said before photos are described
        self.model.check_queries([view.boxes for view in views], crop)
        views = [replace(view, image=as_encoded(view.image)) for view in views]
        described, skipped = self._described(views, crop, on_skip)
        answers = self.search_described(
            list(described.values()),
            images=[views[number].image for number in described],
            k=k,
            where=where,
            exclude=[left_out[number] for number in described],
            min_score=min_score,
            at_most_false=at_most_false,
            rerank=rerankers,
            exact=exact,
        )
        results = dict(zip(described, answers, strict=True))
        for number, reason in skipped.items():
            image = views[number].image
            name = str(image) if isinstance(image, (str, Path)) else "image"
            results[number] = SearchResult(name, (), (), self.index.schema.scale, skipped=reason)
        return [self._with_photos(results[number], [view.image]) for number, view in enumerate(views)]

    def search_described(
        self,
        queries: Sequence[Described],
        *,
        images: Sequence[ImageLike | None] | None = None,
        k: int = 10,
        where: str | None = None,
        exclude: Sequence[str | Collection[str]] | None = None,
        min_score: float | None = None,
        at_most_false: float | None = None,
        rerank: Sequence[str | Reranker] | None = None,
        exact: bool | None = None,
    ) -> list[SearchResult]:
        """The second half of :meth:`search_many`: queries that were described before share a pass over the index.

        For programs that describe and search on different threads. Each answer is that of :meth:`search` to the last
        bit if its query was described alone, whatever the other queries are.

        Args:
            queries: What :meth:`EmbeddingModel.query` of the model returns, each a query of its own.
            images: The photo of each query, for re-rankers that open it; None where there is none.
            exclude: Ids to leave out, one entry per query.
            k, where, min_score, at_most_false, rerank, exact: As for :meth:`search`, for all queries.

        Returns:
            One result per query, in order.

        Raises:
            WhereError, ValueError, TypeError: As for :meth:`search`.
        """
        rerankers = self.model.rerankers if rerank is None else _rerankers(rerank)
        calibration = self._calibration(at_most_false, rerankers)
        answers = self._answers(
            queries,
            _for_each("images", images, len(queries), None),
            k,
            rerankers=rerankers,
            where=where,
            exclude=_for_each("exclude", exclude, len(queries), ()),
            min_score=min_score,
            exact=exact,
        )
        return [
            _with_expected_false(result, calibration, at_most_false, len(query), len(self.index))
            for query, result in zip(queries, answers, strict=True)
        ]

    def _described(
        self, views: Sequence[View], crop: str, on_skip: Callable[[SkippedImage], None] | None
    ) -> tuple[dict[int, Described], dict[int, str]]:
        """The described queries by their numbers, in order, and the reasons why others were skipped."""
        described: dict[int, Described] = {}
        skipped: dict[int, str] = {}
        parts = [views[first : first + QUERIES_AT_ONCE] for first in range(0, len(views), QUERIES_AT_ONCE)]
        while parts:
            part, number = parts.pop(0), len(described) + len(skipped)
            images, boxes = [view.image for view in part], [view.boxes for view in part]
            try:
                queries = self.model.query_many(images, boxes, crop=crop, max_pixels=self.max_pixels)
            except (OSError, UnreadableImageError, ValueError) as error:
                if on_skip is None:
                    raise
                if len(part) > 1:  # one of them is the cause
                    parts[:0] = [[view] for view in part]
                    continue
                path = str(images[0]) if isinstance(images[0], (str, Path)) else ""
                skipped[number] = error.reason if isinstance(error, UnreadableImageError) else str(error)
                on_skip(SkippedImage(path or str(number), path, skipped[number]))
                continue
            described.update(enumerate(queries, number))
        return described, skipped

    def _views(self, views: Sequence[View], unlike: Sequence[View], combiner: Combiner, crop: str) -> SeveralViews:
        """The described views and counter-examples of a query."""
        if not views:
            raise ValueError("like: expected at least one view beside counter-examples, found none")
        given = [
            replace(view, boxes=combiner.unboxed) if view.boxes is None and number < len(views) else view
            for number, view in enumerate([*views, *unlike])
        ]
        described = [self.model.query(v.image, v.boxes, crop=crop, max_pixels=self.max_pixels) for v in given]
        return SeveralViews(tuple(described[: len(views)]), tuple(described[len(views) :]), combiner)

    def _answers(
        self,
        queries: Sequence[Described],
        images: Sequence[ImageLike | None],
        k: int,
        *,
        rerankers: Sequence[Reranker],
        where: str | None,
        exclude: Sequence[str | Collection[str]],
        min_score: float | None,
        exact: bool | None,
    ) -> list[SearchResult]:
        """The answers to described queries; ``images`` are their photos, for re-rankers, None for a query that is not
        one photo. Others as for :meth:`search_many`."""
        left_out = [frozenset((one,) if isinstance(one, str) else one) for one in exclude]
        words = [query for query in queries if isinstance(query, VisualWords)]
        if words:
            return [
                search_words(
                    self.index,
                    query,
                    partial(self.index.search, query, where=where, exclude=out, exact=exact),
                    k,
                    rerankers,
                    min_score,
                    where,
                )
                for query, out in zip(words, left_out, strict=True)
            ]
        if not rerankers:
            return self.index.search_many(queries, k, where=where, exclude=left_out, min_score=min_score, exact=exact)

        checks.whole("k", k)
        least = -math.inf if min_score is None else checks.between("min_score", min_score, -math.inf, math.inf)
        answers: dict[int, SearchResult] = {}
        for out in dict.fromkeys(left_out):
            numbers = [number for number, other in enumerate(left_out) if other == out]
            photos = [image for number in numbers if (image := images[number]) is not None]
            opened = partial(_opened, photos, self.max_pixels) if len(photos) == len(numbers) else None
            with self.model.computing():  # re-rankers that open photos describe them
                search = search_and_rerank(
                    [expect_vectors("rerank", queries[number]) for number in numbers],
                    self._database(where, out, exact),
                    rerankers,
                    k,
                    self.model.photo_describer,
                    opened,
                )
            answers.update(zip(numbers, search.results, strict=True))
        return [_first(answers[number], k, least, self.index) for number in range(len(queries))]

    def _calibration(
        self, at_most_false: float | None, rerankers: Sequence[Reranker], combiner: Combiner | None = None
    ) -> Calibration | None:
        """The calibration of the index, or None if it does not say what the scores of a search mean.

        Raises:
            ValueError: ``at_most_false`` is not a positive number, or needs what is missing.
        """
        if at_most_false is not None:
            checks.positive("at_most_false", at_most_false)
        calibration = self.index.calibration
        if rerankers:
            reason = f"no re-rankers, whose scores are not calibrated, found {rerankers[0].registry_name!r}"
        elif combiner is not None and not combiner.keeps_views:
            reason = f"the combiner 'best', as scores of others are not calibrated, found {combiner.registry_name!r}"
        elif calibration is None:
            reason = f"a calibrated index, found {self.index.address} without; 'objemb calibrate' makes one"
        else:
            return calibration
        if at_most_false is not None:
            raise ValueError(f"at_most_false: expected {reason}")
        return None

    def _with_photos(self, result: SearchResult, images: Sequence[ImageLike]) -> SearchResult:
        """A result that shows the photos of its query and hits in a notebook."""
        path_of = partial(_photo_if_there, self.index)
        return replace(result, html=partial(result_html, queries=images, path_of=path_of, max_pixels=self.max_pixels))

    def ids_of(self, photo: str | Path) -> list[str]:
        """Ids under which a photo is in the index; empty if it is not.

        Photos are recognised by the stamps of ``objemb index``; without those the result is empty.
        """
        with self._lock:
            self._forget_older()
            if self._stamps is None:
                self._stamps = self.index.stamps()
            stamps = self._stamps
        return ids_of(stamps, Path(photo))

    def photo_of(self, image: str) -> Path | None:
        """Path of the photo of an indexed image; None if it has been removed or changed since it was indexed."""
        if self.find_photo is not None:
            return self.find_photo(self.index, image)
        return indexed_photo(self.index.stamp(image))

    def _database(self, where: str | None, exclude: frozenset[str], exact: bool | None) -> IndexDatabase:
        """What re-rankers see of the index, cached while the state of the index is the same."""
        key = where, exclude, exact
        with self._lock:
            self._forget_older()
            database = self._databases.pop(key, None)
            if database is None:
                database = IndexDatabase(self.index, where, exclude=exclude, exact=exact, open_photo=self._open_photo)
            self._databases[key] = database
            while len(self._databases) > HELD_DATABASES:
                self._databases.popitem(last=False)
            return database

    def _forget_older(self) -> None:
        """Drop cached data of earlier states of the index."""
        if self._state != self.index.state:
            self._state, self._stamps = self.index.state, None
            self._databases.clear()

    def _open_photo(self, image: str) -> Photo:
        """Open the photo of a hit, for re-rankers."""
        path = self.photo_of(image)
        if path is not None:
            return read_photo(path, id=image, max_pixels=self.max_pixels)
        if all(photo_path(stored.stamp) is None for stored in self.index.images()):
            raise ValueError(
                "rerank: expected an index with the paths of its photos, found none; write it with 'objemb index'"
            )
        raise ObjembError(f"{image}: expected the indexed photo, found that it was removed or changed since")


def _with_expected_false(
    result: SearchResult, calibration: Calibration | None, at_most_false: float | None, rows: int, images: int
) -> SearchResult:
    """A result whose hits have the expected number of false ones, without hits for which it is above the accepted one.

    Args:
        result: The result of a search without re-ranking.
        calibration: The calibration of the index; without one the result is unchanged.
        at_most_false: The accepted number, None for any.
        rows: Number of rows of the query.
        images: Number of images of the index.
    """
    if calibration is None:
        return result
    if at_most_false is not None:
        calibration.check_estimable(at_most_false, rows, images)
    hits = [replace(hit, p_false=calibration.expected_false(hit.score, rows, images)) for hit in result]
    accepted = math.inf if at_most_false is None else at_most_false
    return replace(result, hits=tuple(hit for hit in hits if hit.p_false is None or hit.p_false <= accepted))


def _opened(images: Sequence[ImageLike], max_pixels: int, number: int) -> Photo:
    """The photo of a query, by its number."""
    return as_photo(images[number], max_pixels=max_pixels)


def _first(result: SearchResult, k: int, least: float, index: ImageCollection) -> SearchResult:
    """The best ``k`` hits with a score of at least ``least``, with labels and metadata."""
    return replace(result, hits=tuple(index.named([hit for hit in result.hits[:k] if hit.score >= least])))


def _photo_if_there(index: ImageCollection, image: str) -> Path | None:
    """Path of the photo of a hit; None if the photo or its image is no longer there, or has changed."""
    try:
        return indexed_photo(index.stamp(image))
    except KeyError:
        return None


def _for_each(name: str, given: Sequence[T] | None, count: int, default: T) -> list[T]:
    """An argument with an entry for each query; ``default`` for each where it is None."""
    entries = [default] * count if given is None else list(given)
    if isinstance(given, str) or len(entries) != count:
        raise ValueError(
            f"{name}: expected a list with an entry for each of {count} queries, found {checks.short(given)}"
        )
    return entries


def _rerankers(steps: Sequence[str | Reranker]) -> tuple[Reranker, ...]:
    """Re-rankers from objects or texts such as ``query_expansion,top=5``."""
    if not steps:
        return ()

    if isinstance(steps, str):
        raise TypeError(f"rerank: expected a list of re-rankers, found the text {steps!r}")
    return tuple(
        registry.build(Reranker, parse_part("rerank", step)) if isinstance(step, str) else step for step in steps
    )
