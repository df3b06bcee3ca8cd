"""The index of image regions: create, fill and search it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from objemb import checks
from objemb.index.collection import COLLISIONS, ImageCollection
from objemb.index.generations import NEXT, PREVIOUS, Generations
from objemb.index.searcher import Searcher
from objemb.index.storage import rewrite
from objemb.index.storage.calibration import Calibration
from objemb.index.storage.generations import drop, generation, generation_facts, switch, tidy
from objemb.index.storage.manifest import MANIFEST_FILE, Manifest, now
from objemb.index.storage.publish import check_same_model, create, exclusive
from objemb.index.storage.schema import RowSchema
from objemb.index.storage.snapshot import Snapshot, StoredImage
from objemb.index.storage.writer import FLUSH_ROWS, Writer
from objemb.index.structures import DEFAULT_ENGINE, build_structure
from objemb.index.verification import verify_index
from objemb.structures import Described, ImageRows, Match, SearchResult
from objemb.types import BoolArray, Float32Array


class Index(ImageCollection):
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

    def mark(self) -> tuple[int, int, int] | None:
        """As :meth:`ImageCollection.mark`: what tells a manifest from the one before."""
        try:
            status = os.stat(self._folder / MANIFEST_FILE)
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    @property
    def path(self) -> Path:
        """The index folder."""
        return self._folder

    @property
    def address(self) -> str:
        """As :attr:`ImageCollection.address`: the path of the folder."""
        return str(self._folder)

    @property
    def name(self) -> str:
        """As :attr:`ImageCollection.name`."""
        return self._folder.resolve().name

    @property
    def state(self) -> Manifest:
        """The published state that is open; data read from the index are current as long as it is the same."""
        return self._snapshot.manifest

    @property
    def generation(self) -> int:
        """As :attr:`ImageCollection.generation`."""
        return self._snapshot.manifest.generation

    @property
    def next_image(self) -> int:
        """As :attr:`ImageCollection.next_image`."""
        return self._snapshot.manifest.next_image

    @property
    def engine(self) -> Mapping[str, object] | None:
        """As :attr:`ImageCollection.engine`; the settings are those that :meth:`build_structure` takes."""
        for structure in self._snapshot.manifest.structures:
            return {**structure.settings, "name": structure.engine}
        return None

    @property
    def schema(self) -> RowSchema:
        """The kind of the rows."""
        return self._snapshot.manifest.schema

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

    @property
    def generations(self) -> FolderGenerations:
        """As :attr:`ImageCollection.generations`."""
        return FolderGenerations(self)

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

    def writer(self, *, flush_rows: int = FLUSH_ROWS, fingerprint: str | None = None) -> Writer:
        """A transaction, to be used in a ``with`` block; see :class:`objemb.index.storage.writer.Writer`.

        Args:
            flush_rows: A segment is closed when its number of regions and images together reaches this.
            fingerprint: Fingerprint of the model of the new rows, checked against that of the index; None for no check.
        """
        if fingerprint is not None:
            self.check_fingerprint(fingerprint)
        return Writer(self._folder, self._snapshot.manifest, flush_rows, self.refresh)

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
        sources: Sequence[str | Path | ImageCollection],
        *,
        on_collision: str = "error",
        on_images: Callable[[int], None] = lambda count: None,
    ) -> None:
        """As :meth:`ImageCollection.merge`, also for the folders of other indexes. Rows of folders are copied as they
        are stored, hence they have to be of the same type of numbers."""
        checks.one_of("on_collision", on_collision, COLLISIONS)
        opened = [s if isinstance(s, ImageCollection) else Index.open(s) for s in sources]
        snapshots = [index._snapshot for index in opened if isinstance(index, Index)]
        if len(snapshots) < len(opened):
            super().merge(opened, on_collision=on_collision, on_images=on_images)
            return
        with self.writer() as writer:
            rewrite.merge(writer, snapshots, on_collision, on_images)

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

    def get_many(self, images: Sequence[str]) -> list[Described | None]:
        """As :meth:`ImageCollection.get_many`."""
        places = map(self._snapshot.place, images)
        return [None if place is None else place[0].described(place[1]) for place in places]

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
        """As :meth:`ImageCollection.rows_of_images`."""
        return self._searcher.rows_of_images(images, where)

    def named(self, hits: Sequence[Match]) -> list[Match]:
        """As :meth:`ImageCollection.named`."""
        return self._searcher.named(hits)

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

    def _answers(
        self,
        queries: Sequence[Described],
        k: int,
        where: str | None,
        runners_up: int,
        exact: bool | None,
        named: bool,
    ) -> list[SearchResult]:
        return self._searcher.search(queries, k, where, runners_up, exact, named)

    def _use(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._searcher = Searcher(snapshot, self._searcher)


class FolderGenerations(Generations):
    """The generations of an index in a folder, see :mod:`objemb.index.storage.generations`."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def tidy(self) -> None:
        """As :meth:`Generations.tidy`."""
        tidy(self._index.path)

    def kept(self) -> str | None:
        """As :meth:`Generations.kept`: its folder."""
        there = generation(self._index.path, PREVIOUS, self._index.state)
        return None if there is None else str(self._index.path / PREVIOUS)

    def begun(self) -> Index | None:
        """As :meth:`Generations.begun`."""
        there = generation(self._index.path, NEXT, self._index.state)
        return None if there is None else Index.open(self._index.path / NEXT)

    def begin(self, schema: RowSchema, fingerprint: str, model: Mapping[str, object] | None) -> Index:
        """As :meth:`Generations.begin`."""
        return Index.create(self._index.path / NEXT, schema=schema, fingerprint=fingerprint, model=model)

    def switch(self, *, keep: bool) -> bool:
        """As :meth:`Generations.switch`."""
        return switch(self._index.path, self._index.state, keep=keep)

    def drop(self, name: str) -> bool:
        """As :meth:`Generations.drop`, even if the generation is damaged."""
        return drop(self._index.path, name)
