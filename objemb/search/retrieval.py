"""From a photo and a box to an answer: a model, an index that it made, and re-rankers."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from objemb import checks, registry
from objemb.card import read_card
from objemb.checks import ObjembError
from objemb.config import parse_part
from objemb.images.decode import MAX_PIXELS, read_photo
from objemb.images.inputs import BoxesLike, ImageLike, as_encoded, as_photo
from objemb.index.filters.parser import parse
from objemb.index.store import Index
from objemb.models.base import EmbeddingModel
from objemb.models.hub import model_folder
from objemb.models.opening import open_model
from objemb.rerank._database import Database
from objemb.search.indexing import ids_of, indexed_photo, photo_path
from objemb.search.kinds import check_model, gives_of
from objemb.structures import Match, Photo, SearchResult, VisualWords

if TYPE_CHECKING:
    from objemb.rerank.base import Reranker

#: Sets of rows that are held for re-ranking: those of the last filters, each at most as large as the index.
HELD_DATABASES = 2


class Retrieval:
    """A model and an index that it made: what Python, ``objemb search`` and a service search with.

    Searching from several threads is safe. What changes the index that is held here (writing to it, ``refresh``) is
    not: no search may be going on meanwhile. Where others search all the time, open another object and let it take
    the place of this one.

    Args:
        model: Describes the queries.
        index: What is searched; after a ``refresh`` its new state is.
        max_pixels: Larger photos are not opened, neither as queries nor by re-rankers that open hits.

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
        self._databases: OrderedDict[str | None, Database] = OrderedDict()

    @staticmethod
    def open(
        index: str | Path,
        model: str | Path | None = None,
        *,
        device: str = "cpu",
        precision: str | None = None,
        runtime: str | None = None,
        threads: int | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> Retrieval:
        """Open an index with its model.

        Args:
            index: An index folder.
            model: A model folder, or ``hf:ORG/NAME``; None for the one that the index was made with, where it was then.
            device: As for :func:`objemb.load`.
            precision, runtime, threads: Likewise.
            max_pixels: As for the constructor.

        Raises:
            FileNotFoundError: There is no model where it was, or the index does not say where.
            ArtefactMismatchError: The index was made with another model; raised before the model is loaded.
            IndexFolderError, DamagedIndexError: As for :meth:`Index.open`.
        """
        opened = Index.open(index)
        folder = _recorded_model(opened) if model is None else model_folder(model)
        card = read_card(folder)
        check_model(opened, gives_of(card), card["settings"], card["fingerprint"])
        described_with = open_model(folder, device, precision, runtime=runtime, threads=threads)
        return Retrieval(described_with, opened, max_pixels=max_pixels)

    def search(
        self,
        image: ImageLike,
        boxes: BoxesLike | str | None = None,
        *,
        k: int = 10,
        where: str | None = None,
        exclude: str | Collection[str] = (),
        min_score: float | None = None,
        crop: str = "context",
        rerank: Sequence[str | Reranker] | None = None,
        exact: bool | None = None,
    ) -> SearchResult:
        """The photos that show the same object, and which of their boxes matched which of the query's.

        Args:
            image: The query: a path, bytes, a PIL image, an array ``(H, W, 3)`` ..., as for :meth:`Model.describe`.
            boxes: What in it is searched for: rows of x1, y1, x2, y2 in original pixels, one of the words ``whole``,
                ``detector`` and ``both``, or None for what suits the model; as for :meth:`Model.query`.
            k: Number of photos; fewer are found when the index (or the filter) has no more.
            where: A filter on ``label``, ``score``, ``image`` and metadata, see :mod:`objemb.index.filters.parser`.
            exclude: Ids of images that are not to be found, such as those of :meth:`ids_of`; others take their places.
            min_score: Photos of lower scores are left out; on the scale of the last re-ranker, if there is one.
            crop: How a box is described: ``context``, ``crop``, ``scaled`` or ``whole``, as for :meth:`Model.query`.
            rerank: What re-ranks the hits, in order: re-rankers, or texts such as ``query_expansion,top=5``. None for
                those of the model, an empty list for none. Re-ranking searches exactly, and holds the rows of the index
                in memory unless it is a single segment.
            exact: True for exact search, False for approximate search, None for what suits the size of the index.

        Returns:
            Best first. Labels and metadata are those of the index; ``scale`` names what the scores measure.

        Raises:
            FileNotFoundError, UnreadableImageError: The query is missing or no image.
            WhereError: The filter cannot be understood.
            ValueError, TypeError: Boxes outside the photo, no detector to find some, re-rankers that do not exist or
                look into photos of an index that does not know where any of them is, and others that ask for what
                there is not.
        """
        rerankers = self.model.rerankers if rerank is None else _rerankers(rerank)
        if where is not None:
            parse(where)
        image = as_encoded(image)
        query = self.model.query(image, boxes, crop=crop, max_pixels=self.max_pixels)
        if isinstance(query, VisualWords):
            from objemb.search.words import search_words  # here, since re-rankers need PyTorch

            found = partial(self.index.search, query, where=where, exclude=exclude, exact=exact)
            return search_words(self.index, query, found, k, rerankers, min_score)
        if not rerankers:
            return self.index.search(query, k, where=where, exclude=exclude, min_score=min_score, exact=exact)

        checks.whole("k", k)
        if exact is False:
            raise ValueError("exact: expected True or None, since re-ranking searches exactly, found False")
        least = -math.inf if min_score is None else checks.between("min_score", min_score, -math.inf, math.inf)
        database = self._database(_without(exclude, where))

        from objemb.rerank.base import search_and_rerank  # here, since re-rankers need PyTorch

        with self.model.computing():  # re-rankers that open photos describe them
            search = search_and_rerank(
                [query],
                database,
                rerankers,
                k,
                self.model.photo_describer,
                lambda number: as_photo(image, max_pixels=self.max_pixels),
            )
        (result,) = search.results
        return replace(result, hits=tuple(self._named(hit) for hit in result.hits[:k] if hit.score >= least))

    def ids_of(self, photo: str | Path) -> list[str]:
        """The ids of a photo in the index, whatever the file is called here; none where it was not indexed.

        An index that was written without the stamps of ``objemb index`` does not know.
        """
        with self._lock:
            self._forget_older()
            if self._stamps is None:
                self._stamps = self.index.stamps()
            stamps = self._stamps
        return ids_of(stamps, Path(photo))

    def photo_of(self, image: str) -> Path | None:
        """Where the photo of an image of the index lies; None where it has gone or changed since it was indexed."""
        return indexed_photo(self.index.stamp(image))

    def _database(self, where: str | None) -> Database:
        """The rows of the index that may be found, held while the index shows the same state."""
        with self._lock:
            self._forget_older()
            database = self._databases.pop(where, None)
            if database is None:
                database = Database.of_index(self.index, where, self._open_photo)
            self._databases[where] = database
            while len(self._databases) > HELD_DATABASES:
                self._databases.popitem(last=False)
            return database

    def _forget_older(self) -> None:
        """Let go of what was held of an earlier state of the index."""
        if self._state != self.index.state:
            self._state, self._stamps = self.index.state, None
            self._databases.clear()

    def _open_photo(self, image: str) -> Photo:
        """The photo of a hit, for re-rankers that open it."""
        path = self.photo_of(image)
        if path is not None:
            return read_photo(path, id=image, max_pixels=self.max_pixels)
        if all(photo_path(stored.stamp) is None for stored in self.index.images()):
            raise ValueError("rerank: expected an index that knows where its photos are, found none of them in it")
        raise ObjembError(f"{image}: its photo has gone, or changed since it was indexed")

    def _named(self, hit: Match) -> Match:
        """A hit with the metadata of its image, and the label of its box if that is one of the index."""
        stored = self.index.get(hit.image)
        if stored is None:
            return hit
        boxes = [tuple(box) for box in stored.regions.boxes.tolist()]
        label = stored.regions.label_names[boxes.index(hit.box)] if hit.box in boxes else None
        return replace(hit, label=label, metadata=stored.metadata)


def _recorded_model(index: Index) -> Path:
    """The folder of the model that an index was made with."""
    path = (index.model or {}).get("path")
    if not isinstance(path, str):
        raise FileNotFoundError("model: expected a model folder, since the index does not say which model made it")
    if not Path(path).is_dir():
        raise FileNotFoundError(f"model: expected a model folder; the one of the index was at {path}, found nothing")
    return Path(path)


def _rerankers(steps: Sequence[str | Reranker]) -> tuple[Reranker, ...]:
    """Re-rankers as they are, and those that texts such as ``query_expansion,top=5`` name."""
    if not steps:
        return ()

    from objemb.rerank.base import Reranker

    if isinstance(steps, str):
        raise TypeError(f"rerank: expected a list of re-rankers, found the text {steps!r}")
    return tuple(
        registry.build(Reranker, parse_part("rerank", step)) if isinstance(step, str) else step for step in steps
    )


def _without(images: str | Collection[str], where: str | None) -> str | None:
    """A filter that leaves out some images beside what ``where`` leaves out."""
    left_out = (images,) if isinstance(images, str) else images
    if not left_out:
        return where
    names = ", ".join("'" + image.replace("'", "''") + "'" for image in sorted(left_out))
    return f"image not in ({names})" + ("" if where is None else f" and ({where})")
