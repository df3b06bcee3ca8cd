"""The index of image regions: create, fill and search it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from objemb import checks
from objemb.checks import ArtefactMismatchError
from objemb.index.searcher import Searcher
from objemb.index.storage import rewrite
from objemb.index.storage.calibration import Calibration
from objemb.index.storage.generations import NEXT, PREVIOUS, generation_facts
from objemb.index.storage.manifest import Manifest, now
from objemb.index.storage.publish import check_same_model, create, exclusive
from objemb.index.storage.schema import RowSchema
from objemb.index.storage.snapshot import Snapshot, StoredImage
from objemb.index.storage.writer import FLUSH_ROWS, Writer
from objemb.index.structures import DEFAULT_ENGINE, build_structure
from objemb.index.verification import verify_index
from objemb.structures import Described, ImageRows, Match, SearchResult
from objemb.types import BoolArray, Float32Array


class Index:
    """An index folder: the regions of images with the vectors, or the visual words, of one model.

    Use :meth:`create` or :meth:`open`. An open index is a view of one published state; its own changes and
    :meth:`refresh` move it to the latest. Several threads may search at once; changes need exclusive access.
    """

    def __init__(self, folder: Path, snapshot: Snapshot) -> None:
        self._folder = folder
        self._snapshot = snapshot
        self._searcher = Searcher(snapshot)

    @staticmethod
    def create(
        path: str | Path, *, schema: RowSchema, fingerprint: str, model: Mapping[str, object] | None = None
    ) -> Index:
        """Create an empty index.

        Args:
            path: A folder that is empty or does not exist.
            schema: The kind of its rows, such as ``UnitVectors(dim)``.
            fingerprint: Fingerprint of the model whose rows are added.
            model: JSON description of the model (``model.about``), shown by :meth:`info`. Without it ``objemb search``
                needs the option ``--model``.

        Raises:
            IndexFolderError: The folder contains an index or other files.
            IndexWriteError: The folder cannot be written.
        """
        if not isinstance(schema, RowSchema):
            raise TypeError(f"schema: expected a row schema such as UnitVectors(512), found {schema!r}")
        if not isinstance(fingerprint, str) or not fingerprint:
            raise ValueError(f"fingerprint: expected a non-empty string, found {fingerprint!r}")
        folder, time = Path(path), now()
        try:
            described = json.loads(json.dumps(model))
        except (TypeError, ValueError) as error:
            raise TypeError(f"model: expected values that JSON can hold, found {error}") from error
        create(folder, Manifest(schema, fingerprint, described, created=time, updated=time))
        return Index.open(folder)

    @staticmethod
    def open(path: str | Path) -> Index:
        """Open the latest published state of an index.

        Raises:
            IndexFolderError: The folder is not an index.
            ArtefactMismatchError: The index was written by a newer version of objemb.
            DamagedIndexError: A file is missing or has the wrong length, or the manifest is damaged. Changed bytes in
                other files are detected when they are read (tables) or by :meth:`verify` (vectors).
        """
        return Index(Path(path), Snapshot.load(Path(path)))

    def refresh(self) -> None:
        """Switch to the latest published state.

        Raises:
            ArtefactMismatchError: The folder now contains an index of another model. The old state stays open.
        """
        newest = Snapshot.load(self._folder, self._snapshot)
        check_same_model(self._folder, self._snapshot.manifest, newest.manifest)
        if newest.manifest != self._snapshot.manifest:
            self._use(newest)

    def newest(self) -> Index:
        """The latest published state as an object of its own, which shares what is loaded; this one if it is the
        latest. Searches of this one go on undisturbed.

        Raises:
            ArtefactMismatchError: As for :meth:`refresh`.
        """
        newest = Snapshot.load(self._folder, self._snapshot)
        check_same_model(self._folder, self._snapshot.manifest, newest.manifest)
        if newest.manifest == self._snapshot.manifest:
            return self
        opened = Index(self._folder, newest)
        opened._searcher = Searcher(newest, self._searcher)
        return opened

    @property
    def path(self) -> Path:
        """The index folder."""
        return self._folder

    @property
    def state(self) -> Manifest:
        """The published state that is open; data read from the index are current as long as it is the same."""
        return self._snapshot.manifest

    @property
    def schema(self) -> RowSchema:
        """The kind of the rows."""
        return self._snapshot.manifest.schema

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self.schema.dim

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the model that made the rows."""
        return self._snapshot.manifest.fingerprint

    @property
    def model(self) -> Mapping[str, object] | None:
        """Description of that model as given to :meth:`create`, or None."""
        return self._snapshot.manifest.model

    @property
    def calibration(self) -> Calibration | None:
        """What the scores of a search without re-ranking mean, or None if that is not known."""
        return self._snapshot.manifest.calibration

    def set_calibration(self, calibration: Calibration | None) -> None:
        """Publish a calibration, or remove it; see :func:`objemb.search.calibration.calibrate`."""
        with exclusive(self._folder, self._snapshot.manifest) as publisher:
            publisher.publish(calibration=calibration)
        self.refresh()

    def added_since(self, next_image: int) -> int:
        """Number of images that were added when ``state.next_image`` was ``next_image``, or later."""
        return self._snapshot.added_since(next_image)

    def __len__(self) -> int:
        """Number of images."""
        return self._snapshot.image_count

    def __contains__(self, image: object) -> bool:
        """Whether the index contains an image with this id."""
        return isinstance(image, str) and self._snapshot.place(image) is not None

    def __reduce__(self) -> tuple[Callable[[str], Index], tuple[str]]:
        """Pickled as its path: another process opens the latest published state."""
        return Index.open, (str(self._folder),)

    def check_fingerprint(self, fingerprint: str) -> None:
        """Raise ``ArtefactMismatchError``, with both fingerprints, if the index is of another model."""
        if fingerprint != self.fingerprint:
            path = (self.model or {}).get("path")
            where = f" and was at {path}" if path else ""
            raise ArtefactMismatchError(
                f"{self._folder}: expected the model with fingerprint {self.fingerprint!r}, which made this index"
                f"{where}, found {fingerprint!r}"
            )

    def writer(self, *, flush_rows: int = FLUSH_ROWS, fingerprint: str | None = None) -> Writer:
        """A transaction, to be used in a ``with`` block; see :class:`objemb.index.storage.writer.Writer`.

        Args:
            flush_rows: A segment is closed when its number of regions and images together reaches this.
            fingerprint: Fingerprint of the model of the new rows, checked against that of the index; None for no check.
        """
        if fingerprint is not None:
            self.check_fingerprint(fingerprint)
        return Writer(self._folder, self._snapshot.manifest, flush_rows, self.refresh)

    def delete(self, images: Iterable[str]) -> list[str]:
        """Delete images by id and publish the change. Returns the ids that are not in the index."""
        with self.writer() as writer:
            return writer.delete(images)

    def compact(self, *, rebuild: bool = False, on_images: Callable[[int], None] = lambda count: None) -> bool:
        """Free the space of deleted images and join small segments.

        Temporarily needs free disk space of about the size of the index. Search structures are removed.

        Args:
            rebuild: Whether to build the removed search structures again.
            on_images: Called with the number of images processed since the last call.

        Returns:
            Whether there was anything to do.
        """
        self.refresh()
        before = self._snapshot.manifest.structures
        done = rewrite.compact(self._folder, self._snapshot.manifest, on_images)
        self.refresh()
        for structure in reversed(before if done and rebuild else ()):  # the last one built is used first
            self.build_structure({**structure.settings, "name": structure.engine}, keep=True)
        return done

    def build_structure(
        self,
        engine: str | Mapping[str, object] | None = None,
        *,
        keep: bool = False,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Build a structure for approximate search over all images; images added later are searched exactly.

        Approximate search may miss images, but the scores of those it finds are exact.

        Args:
            engine: Name of an engine (a plug-in of :mod:`objemb.index.engines`), or ``{"name": ..., **settings}``:
                "ivf_sq8" (one byte per number, fast and accurate; the default), "ivf_rabitq" (a bit per number, or as
                many as ``bits`` says), "ivf_pq_fastscan" (two bits per number) or "ivf_pq" (the same, less accurate).
            keep: Whether structures of other engines are kept, for queries that this one does not support.
            on_progress: Called now and then with the number of vectors that were assigned to lists, and with how many
                are to be.

        Raises:
            ImportError: A library that the engine needs is not installed (FAISS for all of these).
            ValueError: There are too few regions, or there is no such engine.
        """
        chosen = DEFAULT_ENGINE if engine is None else engine
        settings = {"name": chosen} if isinstance(chosen, str) else chosen
        build_structure(self._folder, self._snapshot.manifest, settings, keep=keep, on_progress=on_progress)
        self.refresh()

    def merge(
        self,
        sources: Sequence[str | Path | Index],
        *,
        on_collision: str = "error",
        on_images: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Add all images of other indexes of the same model, which are not changed.

        Args:
            sources: Other indexes or their folders.
            on_collision: What to do with an image whose id is already in this index: "error", "replace" the existing
                image or "keep" it.
            on_images: Called with the number of images processed since the last call.

        Raises:
            ArtefactMismatchError: Fingerprint, kind of rows or dimension differ.
            ValueError: An id is in two indexes and ``on_collision`` is "error". This index is not changed.
        """
        opened = [s._snapshot if isinstance(s, Index) else Snapshot.load(Path(s)) for s in sources]
        with self.writer() as writer:
            rewrite.merge(writer, opened, on_collision, on_images)

    def verify(self) -> list[str]:
        """Check all published files, see :mod:`objemb.index.verification`; returns the problems, if any."""
        return verify_index(self._folder)

    def images(self, start: int = 0) -> Iterator[StoredImage]:
        """Every image from the one with the number ``start`` on, in the order in which they were added."""
        return self._snapshot.images(checks.whole("start", start, 0))

    def columns(self) -> list[str]:
        """Names of the metadata columns, sorted."""
        return self._searcher.columns()

    def labels(self) -> list[str]:
        """Names of the classes of regions, sorted."""
        return sorted({label for segment in self._snapshot.segments for label in segment.label_names})

    def stamps(self) -> dict[str, str | None]:
        """The stamp of every image by id; a stamp identifies the state of an image that was indexed."""
        return self._snapshot.stamps()

    def stamp(self, image: str) -> str | None:
        """The stamp of one image. Raises ``KeyError`` if the id is not in the index."""
        place = self._snapshot.place(image)
        if place is None:
            raise KeyError(image)
        return place[0].stamp(place[1])

    def get(self, image: str) -> Described | None:
        """The stored rows of an image, or None if its id is not in the index.

        Added to an index, they are found with the scores of the original. Extras of regions are not stored, nor are
        weights of visual words, which count in queries only: they are 1, as in a query without idf.
        """
        place = self._snapshot.place(image)
        return None if place is None else place[0].described(place[1])

    def fitting(self, image: str, where: str) -> BoolArray:
        """Which rows of an image fit a filter: bool ``(n,)``. Raises ``KeyError`` for an id that is not there."""
        place = self._snapshot.place(image)
        if place is None:
            raise KeyError(image)
        return self._searcher.fitting(*place, where)

    def find(self, where: str) -> list[str]:
        """Ids of the images with a region that matches a filter, see :mod:`objemb.index.filters.parser`."""
        return self._searcher.find(where)

    def dense_rows(self, where: str | None = None) -> ImageRows:
        """All vectors as one array, images in the order in which they were added.

        The vectors are a copy in memory, unless the index is a single float32 segment without deleted or filtered rows
        (as after :meth:`compact`); then they are the memory-mapped file.

        Args:
            where: Return only the rows that match this filter, see :mod:`objemb.index.filters.parser`.

        Raises:
            ArtefactMismatchError: The index contains visual words.
        """
        return self._searcher.dense_rows(where)

    def rows_of_images(self, images: Sequence[str], where: str | None = None) -> ImageRows:
        """The vectors of some images, one image after the other, in memory.

        Args:
            images: Ids.
            where: Return only the rows that match this filter; an image without such rows has none.

        Raises:
            KeyError: An id is not in the index.
            ArtefactMismatchError: The index contains visual words.
        """
        return self._searcher.rows_of_images(images, where)

    def named(self, hit: Match) -> Match:
        """A hit with the metadata of its image, and the label of its box if that is a stored one.

        For hits that were moved to another box. Raises ``KeyError`` for an image that is not in the index.
        """
        return self._searcher.named(hit)

    def sample(self, count: int) -> Float32Array:
        """Vectors of the index, evenly spread over all rows: float32 ``(N, D)``, at most ``count``.

        Raises:
            ArtefactMismatchError: The index contains visual words.
        """
        return self._searcher.sample(checks.whole("count", count))

    def info(self) -> dict[str, Any]:
        """Counts, sizes and the model of the index, JSON-ready; ``next`` and ``previous`` are other generations, with
        their counts and model, or None."""
        current = self._snapshot.manifest
        others = {name: generation_facts(self._folder, name, current) for name in (NEXT, PREVIOUS)}
        return {"path": str(self._folder), **self._snapshot.facts(), **others}

    def search(
        self,
        query: Described,
        k: int = 10,
        *,
        where: str | None = None,
        exclude: str | Collection[str] = (),
        min_score: float | None = None,
        fingerprint: str | None = None,
        runners_up: int = 3,
        exact: bool | None = None,
    ) -> SearchResult:
        """Find the images most similar to a query.

        The score of an image is that of its best pair of a stored region and a query region. Re-rankers are not
        applied; use :class:`objemb.Retrieval` to search with a model and its re-rankers.

        Args:
            query: One or more regions, described by the index's model with ``model.query``; zero regions match nothing.
            k: Maximum number of images; fewer are returned if the index, or the filter, has no more.
            where: A filter on ``label``, ``score``, ``image`` and metadata, see :mod:`objemb.index.filters.parser`.
            exclude: Ids of images to leave out, such as the query's own; other images take their places.
            min_score: Leave out images with a lower score.
            fingerprint: Fingerprint of the model that described the query, which is checked against the index; None for
                no check.
            runners_up: Number of further pairs of boxes to return per image.
            exact: True for exact search; False for approximate search with a structure (see :meth:`build_structure`);
                None for approximate search if a structure covers at least a quarter of the rows and there are at least
                200,000 rows, else exact search.

        Returns:
            The images, best first, with boxes in original pixels.

        Raises:
            ArtefactMismatchError: The query is of another model, kind or dimension.
            WhereError: The filter is not valid.
            DamagedIndexError: A file is damaged.
            TypeError: The query is not a description by a model.
            ValueError: ``exact`` is False and there is no search structure.
        """
        return self.search_many(
            [query],
            k,
            where=where,
            exclude=[exclude],
            min_score=min_score,
            fingerprint=fingerprint,
            runners_up=runners_up,
            exact=exact,
        )[0]

    def search_many(
        self,
        queries: Sequence[Described],
        k: int = 10,
        *,
        where: str | None = None,
        exclude: Sequence[str | Collection[str]] | None = None,
        min_score: float | None = None,
        fingerprint: str | None = None,
        runners_up: int = 3,
        exact: bool | None = None,
        named: bool = True,
    ) -> list[SearchResult]:
        """Search for many queries at once, which is faster than calling :meth:`search` for each.

        Args:
            queries: Descriptions as for :meth:`search`.
            k: As for :meth:`search`, like the arguments that are not listed here.
            exclude: Ids to leave out, one entry per query; ``[q.image for q in queries]`` if the queries are in the
                index under their own ids.
            named: Whether hits have labels and metadata. Reading them takes a good part of an approximate search;
                :meth:`named` adds them to the hits that are needed.

        Returns:
            One result per query.
        """
        self._check_search(queries, k, fingerprint, runners_up)
        if isinstance(exclude, str):
            raise TypeError(f"exclude: expected a list with an entry for each query, found the text {exclude!r}")
        left_out = [frozenset((one,) if isinstance(one, str) else one) for one in exclude or ((),) * len(queries)]
        if len(left_out) != len(queries):
            raise ValueError(
                f"exclude: expected a list with an entry for each of {len(queries)} queries, found {len(left_out)}"
            )
        if min_score is not None and not isinstance(min_score, (int, float)):
            raise TypeError(f"min_score: expected a number, found {min_score!r}")
        most = k + max(map(len, left_out), default=0)
        answers = self._searcher.search(queries, most, where, runners_up, exact, named)
        return [_kept(answer, k, out, min_score) for answer, out in zip(answers, left_out, strict=True)]

    def _check_search(self, queries: Sequence[Described], k: int, fingerprint: str | None, runners_up: int) -> None:
        checks.whole("k", k)
        checks.whole("runners_up", runners_up, 0)
        if fingerprint is not None:
            self.check_fingerprint(fingerprint)
        if isinstance(queries, Described):
            raise TypeError("queries: expected a list of descriptions, found a single one; use search for one query")
        for query in queries:
            if not isinstance(query, Described):
                raise TypeError(
                    "query: expected a description by a model, such as index.search(model.query('photo.jpg')), "
                    f"found {query!r:.80}"
                )
            self.schema.check(f"query {query.image!r}", query)

    def _use(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._searcher = Searcher(snapshot, self._searcher)


def _kept(answer: SearchResult, k: int, left_out: frozenset[str], min_score: float | None) -> SearchResult:
    """The ``k`` best hits that are not excluded and score at least ``min_score``."""
    least = -math.inf if min_score is None else min_score
    hits = tuple(hit for hit in answer.hits if hit.score >= least and hit.image not in left_out)[:k]
    return answer if len(hits) == len(answer) else replace(answer, hits=hits)
