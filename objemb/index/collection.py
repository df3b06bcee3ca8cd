"""What an index is, wherever it lives: the contract of an index in a folder and of one at an address."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from types import TracebackType
from typing import Any, Protocol, Self

from objemb import checks
from objemb.checks import ArtefactMismatchError
from objemb.index.generations import Generations
from objemb.index.storage.calibration import Calibration
from objemb.index.storage.schema import RowSchema
from objemb.index.storage.snapshot import StoredImage
from objemb.structures import Described, ImageRows, Match, SearchResult
from objemb.types import BoolArray, Float32Array

#: What to do with an image whose id is in the index already.
COLLISIONS = ("error", "replace", "keep")
#: Images that are read at once where all are read.
DESCRIBED_AT_ONCE = 500


class ImageWriter(Protocol):
    """Adds and deletes images, in a ``with`` block.

    Of a folder, changes become visible together at :meth:`commit` and at the end of the block, there is one writer at a
    time, and what was not committed is dropped when the block ends with an exception. At an address, several writers
    may be at work at once, and photos become visible in batches, each photo whole.
    """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def add(self, described: Described, stamp: str | None = None) -> None:
        """Add an image with all its regions, or replace the image of the same id."""

    def delete(self, images: Iterable[str]) -> list[str]:
        """Delete images by id. Returns the ids that are not there."""

    def __contains__(self, image: str) -> bool: ...

    def commit(self) -> None:
        """Make all changes so far visible and durable."""


class ImageCollection(ABC):
    """Images with their regions and the rows of one model, which can be searched and changed.

    Several threads may search at once; changes through one object need exclusive access to it.
    """

    @property
    @abstractmethod
    def address(self) -> str:
        """Where it lives, as text: the path of a folder, or an address without secrets."""

    @property
    @abstractmethod
    def name(self) -> str:
        """A short name for pages: that of the folder or the table."""

    @property
    @abstractmethod
    def schema(self) -> RowSchema:
        """The kind of the rows."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Fingerprint of the model that made the rows."""

    @property
    @abstractmethod
    def model(self) -> Mapping[str, object] | None:
        """Description of that model as given when the index was created, or None."""

    @property
    @abstractmethod
    def calibration(self) -> Calibration | None:
        """What the scores of a search without re-ranking mean, or None if that is not known."""

    @property
    @abstractmethod
    def state(self) -> object:
        """The state that is open; data read from the index are current as long as it is equal."""

    @property
    @abstractmethod
    def generation(self) -> int:
        """The number of that state, which grows with every change."""

    @property
    @abstractmethod
    def next_image(self) -> int:
        """A number such that :meth:`added_since` counts the images that are added after this state."""

    @property
    @abstractmethod
    def engine(self) -> Mapping[str, object] | None:
        """The engine of the structure for approximate search, and its settings; None without a structure."""

    @property
    @abstractmethod
    def generations(self) -> Generations:
        """Its generations, of which this one answers; for migration."""

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self.schema.dim

    @abstractmethod
    def refresh(self) -> None:
        """Switch to the latest state.

        Raises:
            ArtefactMismatchError: There is an index of another model now. The old state stays open.
        """

    @abstractmethod
    def newest(self) -> Self:
        """The latest state as an object of its own, which shares what is loaded; this one if it is the latest."""

    @abstractmethod
    def mark(self) -> object:
        """What tells one state from another, found out quickly: equal as long as nothing was published; None if that
        cannot be found out now."""

    @abstractmethod
    def set_calibration(self, calibration: Calibration | None) -> None:
        """Publish a calibration, or remove it; see :func:`objemb.search.calibration.calibrate`."""

    @abstractmethod
    def added_since(self, next_image: int) -> int:
        """Number of images that were added when :attr:`next_image` was ``next_image``, or later."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def __contains__(self, image: object) -> bool:
        """Whether the index contains an image with this id."""

    @abstractmethod
    def writer(self, *, fingerprint: str | None = None) -> ImageWriter:
        """A writer, to be used in a ``with`` block.

        Args:
            fingerprint: Fingerprint of the model of the new rows, checked against that of the index; None for no check.
        """

    @abstractmethod
    def build_structure(
        self,
        engine: str | Mapping[str, object] | None = None,
        *,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Build the structure for approximate search, or build it anew.

        Args:
            engine: Name of an engine, or ``{"name": ..., **settings}``; None for the default.
            on_progress: Called now and then with what is done and with all of it, where that is known.
        """

    @abstractmethod
    def compact(self, *, on_images: Callable[[int], None] = lambda count: None) -> bool:
        """Free the space of deleted images, as far as that can be done while the index answers.

        Args:
            on_images: Called with the number of images processed since the last call, where that is known.

        Returns:
            Whether there was anything to do, as far as that is known.
        """

    def merge(
        self,
        sources: Sequence[ImageCollection],
        *,
        on_collision: str = "error",
        on_images: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Add all images of other indexes of the same model, which are not changed.

        In a folder, all images become visible together; at an address in batches, so that a merge which was
        interrupted is repeated with "replace" or "keep".

        Args:
            sources: Other indexes, wherever they live.
            on_collision: What to do with an image whose id is already in this index: "error", "replace" the existing
                image or "keep" it.
            on_images: Called with the number of images that were added since the last call.

        Raises:
            ArtefactMismatchError: Fingerprint or kind of rows differ.
            ValueError: An id is in two indexes and ``on_collision`` is "error". This index is not changed.
        """
        checks.one_of("on_collision", on_collision, COLLISIONS)
        known = set(self.stamps())
        for source in sources:
            self.check_same_kind(source)
            ids = set() if on_collision != "error" else set(source.stamps())
            if both := known & ids:
                raise ValueError(
                    f"{source.address}: expected image ids that are new, found {min(both)!r} in both indexes"
                )
            known |= ids
        with self.writer() as writer:
            for source in sources:
                for described, stamp in source.described():
                    if on_collision == "keep" and described.image in known:
                        continue
                    known.add(described.image)
                    writer.add(described, stamp)
                    on_images(1)

    @abstractmethod
    def verify(self) -> list[str]:
        """Check everything that is stored; returns the problems, if any."""

    @abstractmethod
    def images(self, start: int = 0) -> Iterator[StoredImage]:
        """Every image from the one with the number ``start`` on, in the order in which they were added."""

    @abstractmethod
    def columns(self) -> list[str]:
        """Names of the metadata columns, sorted."""

    @abstractmethod
    def labels(self) -> list[str]:
        """Names of the classes of regions, sorted."""

    @abstractmethod
    def stamps(self) -> dict[str, str | None]:
        """The stamp of every image by id; a stamp identifies the state of an image that was indexed."""

    @abstractmethod
    def stamp(self, image: str) -> str | None:
        """The stamp of one image. Raises ``KeyError`` if the id is not in the index."""

    @abstractmethod
    def get_many(self, images: Sequence[str]) -> list[Described | None]:
        """The stored rows of some images, None for each id that is not in the index.

        Added to an index, they are found with the scores of the original. Extras of regions are not stored, nor are
        weights of visual words, which count in queries only: they are 1, as in a query without idf.
        """

    def get(self, image: str) -> Described | None:
        """The stored rows of one image, as :meth:`get_many`."""
        return self.get_many([image])[0]

    def described(self) -> Iterator[tuple[Described, str | None]]:
        """Every image with its stamp, in the order in which they were added, read in batches."""
        images = self.images()
        while some := list(islice(images, DESCRIBED_AT_ONCE)):
            rows = self.get_many([image.id for image in some])
            yield from ((one, image.stamp) for one, image in zip(rows, some, strict=True) if one is not None)

    @abstractmethod
    def fitting(self, image: str, where: str) -> BoolArray:
        """Which rows of an image fit a filter: bool ``(n,)``. Raises ``KeyError`` for an id that is not there."""

    @abstractmethod
    def find(self, where: str) -> list[str]:
        """Ids of the images with a region that matches a filter, see :mod:`objemb.index.filters.parser`."""

    @abstractmethod
    def dense_rows(self, where: str | None = None) -> ImageRows:
        """All vectors as one array, images in the order in which they were added.

        Args:
            where: Return only the rows that match this filter, see :mod:`objemb.index.filters.parser`.

        Raises:
            ArtefactMismatchError: The index contains visual words.
        """

    @abstractmethod
    def rows_of_images(self, images: Sequence[str], where: str | None = None) -> ImageRows:
        """The vectors of some images, one image after the other, in memory.

        Args:
            images: Ids.
            where: Return only the rows that match this filter; an image without such rows has none.

        Raises:
            KeyError: An id is not in the index.
            ArtefactMismatchError: The index contains visual words.
        """

    @abstractmethod
    def named(self, hits: Sequence[Match]) -> list[Match]:
        """Hits with the metadata of their images, and the labels of their boxes where these are stored ones.

        For hits that were found without both, or moved to another box.

        Raises:
            KeyError: An image is not in the index.
        """

    @abstractmethod
    def sample(self, count: int) -> Float32Array:
        """Vectors of the index, spread over all rows: float32 ``(N, D)``, at most ``count``.

        Raises:
            ArtefactMismatchError: The index contains visual words.
        """

    @abstractmethod
    def info(self) -> dict[str, Any]:
        """Counts, sizes and the model of the index, JSON-ready; ``next`` and ``previous`` are other generations, with
        their counts and model, or None. At an address, ``updated`` is None, and ``bytes`` may be."""

    def check_fingerprint(self, fingerprint: str) -> None:
        """Raise ``ArtefactMismatchError``, with both fingerprints, if the index is of another model."""
        if fingerprint != self.fingerprint:
            path = (self.model or {}).get("path")
            where = f" and was at {path}" if path else ""
            raise ArtefactMismatchError(
                f"{self.address}: expected the model with fingerprint {self.fingerprint!r}, which made this index"
                f"{where}, found {fingerprint!r}"
            )

    def check_same_kind(self, other: ImageCollection) -> None:
        """Raise ``ArtefactMismatchError`` if the rows of another index do not fit into this one. They may have another
        type of numbers, such as float16."""
        self.check_fingerprint(other.fingerprint)
        kinds = [{**index.schema.to_json(), "dtype": None} for index in (self, other)]
        if kinds[0] != kinds[1]:
            raise ArtefactMismatchError(
                f"{self.address}: expected rows {other.schema.to_json()}, as in {other.address}, found "
                f"{self.schema.to_json()}"
            )

    def delete(self, images: Iterable[str]) -> list[str]:
        """Delete images by id and publish the change. Returns the ids that are not in the index."""
        with self.writer() as writer:
            return writer.delete(images)

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
        answers = self._answers(queries, most, where, runners_up, exact, named)
        return [_kept(answer, k, out, min_score) for answer, out in zip(answers, left_out, strict=True)]

    @abstractmethod
    def _answers(
        self,
        queries: Sequence[Described],
        k: int,
        where: str | None,
        runners_up: int,
        exact: bool | None,
        named: bool,
    ) -> list[SearchResult]:
        """The answers to checked queries; the arguments are those of :meth:`search_many`."""

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


def _kept(answer: SearchResult, k: int, left_out: frozenset[str], min_score: float | None) -> SearchResult:
    """The ``k`` best hits that are not excluded and score at least ``min_score``."""
    kept = answer.without(left_out) if left_out else answer
    hits = kept.hits if min_score is None else [hit for hit in kept.hits if hit.score >= min_score]
    return kept if len(hits) == len(kept) <= k else replace(kept, hits=hits[:k])
