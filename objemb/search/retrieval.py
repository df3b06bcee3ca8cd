"""Retrieval: search an index with a photo and boxes, a model and its re-rankers."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock

from objemb import checks, registry
from objemb.checks import ObjembError
from objemb.config import parse_part
from objemb.images.decode import MAX_PIXELS, read_photo
from objemb.images.inputs import BoxesLike, ImageLike, as_encoded, as_photo
from objemb.index.filters.parser import parse
from objemb.index.store import Index
from objemb.models.base import EmbeddingModel
from objemb.rerank._database import IndexDatabase
from objemb.rerank.base import Reranker, search_and_rerank
from objemb.search.combiners.base import Combiner
from objemb.search.indexing import ids_of, indexed_photo, photo_path
from objemb.search.kinds import check_model
from objemb.search.views import SAMPLE, SeveralViews, View, as_combiner, as_view
from objemb.search.words import search_words
from objemb.structures import Described, Photo, SearchResult, VisualWords

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

    Raises:
        ArtefactMismatchError: The index was made with another model.
    """

    def __init__(self, model: EmbeddingModel, index: Index, *, max_pixels: int = MAX_PIXELS) -> None:
        checks.whole("max_pixels", max_pixels)
        check_model(index, model.gives, model.settings, model.fingerprint)
        self.model = model
        self.index = index
        self.max_pixels = max_pixels
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
            like: Further views of the same object: images, or :class:`~objemb.search.views.View` objects with boxes.
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
            crop: How a box is described: ``context``, ``crop``, ``scaled`` or ``whole``, as for :meth:`Model.query`.
            rerank: Re-rankers to apply, in order: objects, or texts such as ``query_expansion,top=5``. None for those
                of the model, an empty list for none. Re-rankers read the rows of the hits;
                ``database_augmentation`` and ``diffusion`` hold all rows in memory, and search them exactly.
            exact: True for exact search, False for approximate search, None to choose by the size of the index; with
                re-rankers, this holds for each of their searches in the index.

        Returns:
            The photos, best first, with boxes in original pixels. Labels and metadata are those of the index; ``scale``
            is the meaning of the scores.

        Raises:
            FileNotFoundError, UnreadableImageError: The query does not exist or is not a readable image.
            WhereError: The filter is not valid.
            ValueError, TypeError: Boxes are outside the photo, ``detector`` is used without a detector, or a re-ranker
                does not exist or needs something that is missing, such as the paths of the indexed photos, or the photo
                of the query where there are several views; or there are re-rankers together with counter-examples or a
                classifier, whose scores they would replace.
        """
        rerankers = self.model.rerankers if rerank is None else _rerankers(rerank)
        if where is not None:
            parse(where)
        if like or unlike:
            views = [*([] if image is None else [View(image, boxes)]), *(as_view("like", view) for view in like)]
            several = self._views(views, [as_view("unlike", view) for view in unlike], as_combiner(combine), crop)
            query = several.query(partial(self.index.sample, SAMPLE))
            answer = partial(self._answer, query, None, where=where, exclude=exclude, exact=exact)
            if rerankers and (unlike or several.combiner.margin is None):
                raise ValueError(
                    "rerank: expected no re-rankers, whose scores would replace those of counter-examples and "
                    f"classifiers, found {checks.listed([r.registry_name for r in rerankers])}; --rerank none "
                    "(rerank=[]) searches without them"
                )
            least = -math.inf if min_score is None else checks.between("min_score", min_score, -math.inf, math.inf)
            search = partial(answer, rerankers=rerankers, min_score=None)
            found = several.result(several.told_apart(query, search, self.index, k, where), self.index)
            return replace(found, hits=tuple(hit for hit in found if hit.score >= least))
        if image is None:
            raise ValueError("image: expected a photo, or views in like (--like), found neither")
        image = as_encoded(image)
        query = self.model.query(image, boxes, crop=crop, max_pixels=self.max_pixels)
        return self._answer(
            query, image, k, rerankers=rerankers, where=where, exclude=exclude, min_score=min_score, exact=exact
        )

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

    def _answer(
        self,
        query: Described,
        image: ImageLike | None,
        k: int,
        *,
        rerankers: Sequence[Reranker],
        where: str | None,
        exclude: str | Collection[str],
        min_score: float | None,
        exact: bool | None,
    ) -> SearchResult:
        """The answer to a described query; ``image`` is its photo, for re-rankers, if it is one. Others as for
        :meth:`search`."""
        if isinstance(query, VisualWords):
            found = partial(self.index.search, query, where=where, exclude=exclude, exact=exact)
            return search_words(self.index, query, found, k, rerankers, min_score, where)
        if not rerankers:
            return self.index.search(query, k, where=where, exclude=exclude, min_score=min_score, exact=exact)

        checks.whole("k", k)
        least = -math.inf if min_score is None else checks.between("min_score", min_score, -math.inf, math.inf)
        database = self._database(where, frozenset((exclude,) if isinstance(exclude, str) else exclude), exact)
        opened = None if image is None else partial(_opened, image, self.max_pixels)
        with self.model.computing():  # re-rankers that open photos describe them
            search = search_and_rerank([query], database, rerankers, k, self.model.photo_describer, opened)
        (result,) = search.results
        return replace(result, hits=tuple(self.index.named(hit) for hit in result.hits[:k] if hit.score >= least))

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


def _opened(image: ImageLike, max_pixels: int, number: int) -> Photo:
    """The photo of a query, whose number is 0."""
    del number
    return as_photo(image, max_pixels=max_pixels)


def _rerankers(steps: Sequence[str | Reranker]) -> tuple[Reranker, ...]:
    """Re-rankers from objects or texts such as ``query_expansion,top=5``."""
    if not steps:
        return ()

    if isinstance(steps, str):
        raise TypeError(f"rerank: expected a list of re-rankers, found the text {steps!r}")
    return tuple(
        registry.build(Reranker, parse_part("rerank", step)) if isinstance(step, str) else step for step in steps
    )
