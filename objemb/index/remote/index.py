"""An index at an address: rows in a database, the same answers as from a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from objemb import checks
from objemb.checks import ArtefactMismatchError, IndexFolderError
from objemb.index.collection import ImageCollection
from objemb.index.generations import NEXT, PREVIOUS
from objemb.index.remote.checking import problems_of
from objemb.index.remote.filters import RowFilter
from objemb.index.remote.generations import RemoteGenerations
from objemb.index.remote.header import (
    CURRENT,
    Header,
    checked_fingerprint,
    checked_schema,
    read_header,
    with_calibration,
)
from objemb.index.remote.rows import (
    COLUMNS,
    NO_BOX,
    corners,
    described_of,
    empty_rows,
    metadata_of,
    numbers,
    row_schema,
    stored_images,
    vectors_of,
    whole_photos,
)
from objemb.index.remote.search import RemoteSearch
from objemb.index.remote.writer import RemoteWriter, batches
from objemb.index.searcher import APPROXIMATE_ROWS, MIN_SHARE
from objemb.index.storage.calibration import Calibration
from objemb.index.storage.manifest import now
from objemb.index.storage.schema import RowSchema
from objemb.index.storage.snapshot import StoredImage
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.stores.base import Store, StoreError, StoreFacts
from objemb.structures import Described, ImageRows, Match, RegionDescriptors, Scalar, SearchResult
from objemb.types import BoolArray, Float32Array, Int64Array

#: Photos that are read at once, and rows without vectors.
PHOTOS_AT_ONCE, ROWS_AT_ONCE = 500, 50_000
#: Columns that tell which rows make the photo of each image.
_PARTS = ("image", "number", "box", "boxes")


class RemoteIndex(ImageCollection):
    """An index at an address. Use :func:`objemb.index.opening.open_index` and ``create_index``.

    Unlike that of a folder, it has no snapshot: a search reads what is there at that time, and every photo of it whole.
    :attr:`state` and what is remembered with it (counts, columns, whether there is an index for approximate search)
    change with :meth:`refresh`.

    Args:
        store: The store.
        header: The generation that is open.
    """

    def __init__(self, store: Store, header: Header) -> None:
        self._store, self._header = store, header
        self._versions = store.version(None), store.version(header.generation)
        self._search = RemoteSearch(store, header)
        self._facts: StoreFacts | None = None
        self._types: dict[str, frozenset[str]] | None = None
        self._held_order: Int64Array | None = None

    @staticmethod
    def open(store: Store) -> RemoteIndex:
        """Open the generation that answers; errors are those of :func:`objemb.index.opening.open_index`."""
        header = read_header(store)
        assert header is not None, "an index has a current generation"
        return RemoteIndex(store, header)

    @staticmethod
    def create(
        store: Store, *, schema: RowSchema, fingerprint: str, model: Mapping[str, object] | None = None
    ) -> RemoteIndex:
        """Create an empty index; arguments and errors are those of :func:`objemb.index.opening.create_index`."""
        vectors = checked_schema(store.address, schema)
        checked_fingerprint(fingerprint)
        if CURRENT in store.header():
            raise IndexFolderError(f"{store.address}: expected no index, found one; open it instead")
        header = Header(0, vectors, fingerprint, _json(model), now())
        store.create(0, vectors.dim)
        store.put_header({**header.texts(), CURRENT: "0"})
        return RemoteIndex.open(store)

    @property
    def address(self) -> str:
        """As :attr:`ImageCollection.address`."""
        return str(self._store.address)

    @property
    def name(self) -> str:
        """As :attr:`ImageCollection.name`: that of the table."""
        return self._store.name

    @property
    def schema(self) -> UnitVectors:
        """As :attr:`ImageCollection.schema`."""
        return self._header.schema

    @property
    def fingerprint(self) -> str:
        """As :attr:`ImageCollection.fingerprint`."""
        return self._header.fingerprint

    @property
    def model(self) -> Mapping[str, object] | None:
        """As :attr:`ImageCollection.model`."""
        return self._header.model

    @property
    def calibration(self) -> Calibration | None:
        """As :attr:`ImageCollection.calibration`."""
        return self._header.calibration

    @property
    def state(self) -> object:
        """As :attr:`ImageCollection.state`."""
        return self._header, self._versions

    @property
    def generation(self) -> int:
        """As :attr:`ImageCollection.generation`."""
        return sum(self._versions)

    @property
    def next_image(self) -> int:
        """As :attr:`ImageCollection.next_image`: one more than the largest number of an image."""
        order = self._order()
        return 1 + int(order[-1]) if len(order) else 0

    @property
    def engine(self) -> Mapping[str, object] | None:
        """As :attr:`ImageCollection.engine`."""
        name = self._known_facts().approximate
        return None if name is None else {"name": name}

    @property
    def generations(self) -> RemoteGenerations:
        """As :attr:`ImageCollection.generations`."""
        return RemoteGenerations(
            self._store, self._header, self._versions[1], lambda header: RemoteIndex(self._store, header)
        )

    def __reduce__(self) -> tuple[Callable[[str], ImageCollection], tuple[str]]:
        """Pickled as its address: another process connects by itself."""
        from objemb.index.opening import open_index

        return open_index, (self.address,)

    def refresh(self) -> None:
        """As :meth:`ImageCollection.refresh`."""
        texts = self._store.header()
        is_next = texts.get(NEXT) == str(self._header.generation)
        newest = (read_header(self._store, NEXT, texts) if is_next else None) or read_header(self._store, texts=texts)
        assert newest is not None, "an index has a current generation"
        before, after = self._header, newest
        for kind, old, new in (
            ("model", before.fingerprint, after.fingerprint),
            ("rows", before.schema.kind, after.schema.kind),
        ):
            if old != new:
                raise ArtefactMismatchError(
                    f"{self.address}: expected an index of the {kind} {old!r}, as it was opened, found {new!r}: it was "
                    "replaced by another index; open it again"
                )
        self.__init__(self._store, newest)  # type: ignore[misc]  # nothing of the old state is kept

    def newest(self) -> RemoteIndex:
        """As :meth:`ImageCollection.newest`; the connection is shared."""
        opened = RemoteIndex(self._store, self._header)
        opened.refresh()
        return self if opened.state == self.state else opened

    def mark(self) -> object:
        """As :meth:`ImageCollection.mark`."""
        try:
            return self._store.version(None), self._store.version(self._header.generation)
        except StoreError:
            return None

    def set_calibration(self, calibration: Calibration | None) -> None:
        """As :meth:`ImageCollection.set_calibration`."""
        self._store.put_header(with_calibration(self._header, calibration).texts())
        self.refresh()

    def added_since(self, next_image: int) -> int:
        """As :meth:`ImageCollection.added_since`."""
        order = self._order()
        return len(order) - int(np.searchsorted(order, next_image))

    def __len__(self) -> int:
        return self._known_facts().images

    def __contains__(self, image: object) -> bool:
        return isinstance(image, str) and bool(self._whole([image], _PARTS).num_rows)

    def writer(self, *, fingerprint: str | None = None) -> RemoteWriter:
        """As :meth:`ImageCollection.writer`."""
        if fingerprint is not None:
            self.check_fingerprint(fingerprint)
        return RemoteWriter(self._store, self._header, self._ids, self._there, self.refresh)

    def build_structure(
        self,
        engine: str | Mapping[str, object] | None = None,
        *,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """As :meth:`ImageCollection.build_structure`; a store has one kind of structure, whatever is named."""
        self._store.build(self._header.generation)
        self.refresh()

    def compact(self, *, on_images: Callable[[int], None] = lambda count: None) -> bool:
        """As :meth:`ImageCollection.compact`, as far as the store can; what there was to do is not known."""
        self._store.compact(self._header.generation)
        self.refresh()
        return True

    def verify(self) -> list[str]:
        """As :meth:`ImageCollection.verify`: every row of every photo of all generations, and what the store says of
        itself."""
        return problems_of(self._store, self._header)

    def images(self, start: int = 0) -> Iterator[StoredImage]:
        """As :meth:`ImageCollection.images`."""
        order, place = self._order(), checks.whole("start", start, 0)
        while place < len(order):
            last = order[min(place + PHOTOS_AT_ONCE, len(order)) - 1]
            end = int(np.searchsorted(order, last, side="right"))  # photos of one number stay together
            first = int(np.searchsorted(order, order[place]))
            rows = self._numbered(order[place:end], (*_PARTS, "stamp", "metadata"))
            yield from islice(stored_images(rows), place - first, None)
            place = end

    def columns(self) -> list[str]:
        """As :meth:`ImageCollection.columns`."""
        return sorted(self._field_types())

    def labels(self) -> list[str]:
        """As :meth:`ImageCollection.labels`."""
        parts = self._store.scan(self._header.generation, ("label",), ROWS_AT_ONCE)
        return sorted({label for part in parts for label in part["label"].unique().to_pylist() if label is not None})

    def stamps(self) -> dict[str, str | None]:
        """As :meth:`ImageCollection.stamps`."""
        rows = self._scanned((*_PARTS, "stamp"))
        first = rows.filter(pa.compute.less_equal(rows["box"], 0))
        return dict(zip(first["image"].to_pylist(), first["stamp"].to_pylist(), strict=True))

    def stamp(self, image: str) -> str | None:
        """As :meth:`ImageCollection.stamp`."""
        rows = self._whole([image], (*_PARTS, "stamp"))
        if not rows.num_rows:
            raise KeyError(image)
        stamp: str | None = rows["stamp"][0].as_py()
        return stamp

    def get_many(self, images: Sequence[str]) -> list[Described | None]:
        """As :meth:`ImageCollection.get_many`."""
        found: dict[str, RegionDescriptors] = {}
        for some in batches(list(dict.fromkeys(images)), PHOTOS_AT_ONCE):
            rows = self._whole(some, (*COLUMNS, "vector"))
            for photo in _photos(rows):
                one = described_of(photo)
                found[one.image] = one
        return [found.get(image) for image in images]

    def fitting(self, image: str, where: str) -> BoolArray:
        """As :meth:`ImageCollection.fitting`."""
        rows = self._whole([image], COLUMNS)
        if not rows.num_rows:
            raise KeyError(image)
        return self._filter(where).fits(_with_boxes(rows))

    def find(self, where: str) -> list[str]:
        """As :meth:`ImageCollection.find`; the filter is evaluated here, on all rows, some at a time."""
        asked, found = self._filter(where), set[str]()
        for part in self._store.scan(self._header.generation, COLUMNS, ROWS_AT_ONCE):
            rows = _with_boxes(part)
            found.update(rows["image"].filter(pa.array(asked.fits(rows))).to_pylist())
        # a scan may show rows of versions that do not count
        numbered = list[tuple[int, str]]()
        for some in batches(sorted(found), PHOTOS_AT_ONCE):
            rows = _with_boxes(self._whole(some, COLUMNS))
            fitting = rows.filter(pa.array(asked.fits(rows)))
            numbered += zip(fitting["number"].to_pylist(), fitting["image"].to_pylist(), strict=True)
        return list(dict.fromkeys(image for _, image in sorted(numbered)))

    def dense_rows(self, where: str | None = None) -> ImageRows:
        """As :meth:`ImageCollection.dense_rows`; all vectors are read into memory."""
        rows = _with_boxes(self._scanned((*COLUMNS, "vector")))
        if where is not None:
            rows = rows.filter(pa.array(self._filter(where).fits(rows)))
        names = list(dict.fromkeys(rows["image"].to_pylist()))
        return _image_rows(names, rows, self.dim)

    def rows_of_images(self, images: Sequence[str], where: str | None = None) -> ImageRows:
        """As :meth:`ImageCollection.rows_of_images`."""
        columns, wanted = (*COLUMNS, "vector"), list(dict.fromkeys(images))
        parts = [self._whole(some, columns) for some in batches(wanted, PHOTOS_AT_ONCE)]
        rows = pa.concat_tables([row_schema(self.dim).empty_table(), *parts])
        there = set(rows["image"].to_pylist())
        for image in images:
            if image not in there:
                raise KeyError(image)
        rows = _with_boxes(rows)
        if where is not None:
            rows = rows.filter(pa.array(self._filter(where).fits(rows)))
        return _image_rows(images, rows, self.dim)

    def named(self, hits: Sequence[Match]) -> list[Match]:
        """As :meth:`ImageCollection.named`."""
        wanted = list(dict.fromkeys(hit.image for hit in hits))
        parts = [self._whole(some, COLUMNS) for some in batches(wanted, PHOTOS_AT_ONCE)]
        metadata: dict[str, dict[str, Scalar]] = {}
        labels: dict[tuple[str, tuple[float, ...]], str | None] = {}
        for rows in parts:
            names, texts = (rows[column].to_pylist() for column in ("image", "metadata"))
            metadata |= {name: metadata_of(text) for name, text in dict(zip(names, texts, strict=True)).items()}
            keys = zip(names, map(tuple, corners(rows).tolist()), strict=True)
            for key, label in zip(keys, rows["label"].to_pylist(), strict=True):
                labels.setdefault(key, label)
        return [hit.named(labels.get((hit.image, hit.box)), metadata[hit.image]) for hit in hits]

    def sample(self, count: int) -> Float32Array:
        """As :meth:`ImageCollection.sample`: the vectors of photos evenly spread over their order."""
        checks.whole("count", count)
        order = self._order()
        picked = np.linspace(0, len(order), min(count, len(order)), endpoint=False).astype(int)
        images = [
            image
            for some in batches(order[picked].tolist(), PHOTOS_AT_ONCE)
            for image in self._numbered(np.array(some), _PARTS)["image"].unique().to_pylist()
        ]
        rows = self.rows_of_images(images)
        chosen = np.linspace(0, len(rows.vectors), min(count, len(rows.vectors)), endpoint=False).astype(int)
        sampled: Float32Array = rows.vectors[chosen]
        return sampled

    def info(self) -> dict[str, Any]:
        """As :meth:`ImageCollection.info`."""
        facts, header = self._known_facts(), self._header
        made = header.calibration
        texts = self._store.header()
        return {
            "path": self.address,
            "format": 1,
            "images": len(self),
            "regions": facts.rows,
            "bytes": facts.bytes,
            **{"schema" if key == "name" else key: value for key, value in header.schema.to_json().items()},
            "fingerprint": header.fingerprint,
            "model": header.model,
            "created": header.created,
            "updated": None,  # stores do not tell
            "state": self.generation,
            "deleted_share": 0.0,
            "approximate": facts.approximate,
            "calibration": None if made is None else made.to_json(),
            "approximate_share": min(1.0, facts.indexed_rows / max(1, facts.rows)) if facts.approximate else 0.0,
            "store": dict(facts.details),
            **{name: self._other(name, texts) for name in (NEXT, PREVIOUS)},
        }

    def _other(self, name: str, texts: Mapping[str, str]) -> dict[str, object] | None:
        """Counts and model of another generation, None if there is none."""
        header = read_header(self._store, name, texts)
        if header is None:
            return None
        other = RemoteIndex(self._store, header)
        facts = other._known_facts()
        return {
            "images": facts.images,
            "regions": facts.rows,
            "bytes": facts.bytes,
            "fingerprint": header.fingerprint,
            "model": header.model,
        }

    def _answers(
        self,
        queries: Sequence[Described],
        k: int,
        where: str | None,
        runners_up: int,
        exact: bool | None,
        named: bool,
    ) -> list[SearchResult]:
        asked = None if where is None else self._filter(where)
        facts = self._known_facts()
        if exact is False and facts.approximate is None:
            raise ValueError(
                f"{self.address}: expected an index for approximate search, found none; 'build_structure' makes one"
            )
        if exact is None:
            covered = facts.approximate is not None and facts.indexed_rows >= MIN_SHARE * facts.rows
            exact = not covered or facts.rows < APPROXIMATE_ROWS
        k = min(k, max(1, len(self)))
        return [
            self._search.best(query, k, asked, runners_up, exact=exact, named=named)
            if isinstance(query, RegionDescriptors) and len(query)
            else SearchResult(query.image, (), (), self.schema.scale)
            for query in queries
        ]

    def _filter(self, where: str) -> RowFilter:
        return RowFilter(where, self._field_types(), self._store.says)

    def _field_types(self) -> dict[str, frozenset[str]]:
        if self._types is None:
            self._types = self._store.fields(self._header.generation)
        return self._types

    def _known_facts(self) -> StoreFacts:
        if self._facts is None:
            self._facts = self._store.facts(self._header.generation)
        return self._facts

    def _whole(self, images: Sequence[str], columns: Sequence[str]) -> pa.Table:
        """Columns of whole photos, ordered by number, image and box."""
        return whole_photos(self._store.rows(self._header.generation, images, columns))

    def _there(self, images: Sequence[str]) -> set[str]:
        """Which of some images are there."""
        parts = [self._whole(some, _PARTS) for some in batches(images, PHOTOS_AT_ONCE)]
        return {image for part in parts for image in part["image"].to_pylist()}

    def _scanned(self, columns: Sequence[str]) -> pa.Table:
        """Columns of all photos, in order."""
        parts = self._store.scan(self._header.generation, columns, ROWS_AT_ONCE)
        return whole_photos(pa.concat_tables([empty_rows(self.dim, columns), *parts]))

    def _order(self) -> Int64Array:
        """The numbers of all images in order, int64: eight bytes of each are held as long as this state is open."""
        if self._held_order is None:
            parts = self._store.scan(self._header.generation, ("number", "box"), ROWS_AT_ONCE)
            first = (part.filter(pa.compute.less_equal(part["box"], 0)) for part in parts)
            order = np.concatenate([np.empty(0, np.int64), *(numbers(part, "number") for part in first)])
            self._held_order = np.sort(order)
        return self._held_order

    def _numbered(self, order: Int64Array, columns: Sequence[str]) -> pa.Table:
        """Columns of the images with some numbers, whole and in order."""
        images = self._store.images_of(self._header.generation, np.unique(order).tolist())
        rows = self._whole(list(dict.fromkeys(images)), columns)
        # an image whose newer version has another number comes with that one
        return rows.filter(pa.compute.is_in(rows["number"], pa.array(order)))

    def _ids(self) -> set[str]:
        """The ids of all images, those that are being replaced included."""
        parts = self._store.scan(self._header.generation, ("image",), ROWS_AT_ONCE)
        return {image for part in parts for image in part["image"].unique().to_pylist()}


def _json(model: Mapping[str, object] | None) -> Mapping[str, object] | None:
    """A description of a model as it comes back from JSON, or ``TypeError``."""
    try:
        described: Mapping[str, object] | None = json.loads(json.dumps(model))
    except (TypeError, ValueError) as error:
        raise TypeError(f"model: expected values that JSON can hold, found {error}") from error
    return described


def _photos(rows: pa.Table) -> Iterator[pa.Table]:
    """The rows of each photo, of rows in order."""
    starts = np.flatnonzero(numbers(rows, "box") <= 0)
    for start, stop in pairwise([*starts.tolist(), rows.num_rows]):
        yield rows.slice(start, stop - start)


def _with_boxes(rows: pa.Table) -> pa.Table:
    """The rows that have a box."""
    return rows.filter(pa.compute.not_equal(rows["box"], NO_BOX))


def _image_rows(images: Sequence[str], rows: pa.Table, dim: int) -> ImageRows:
    """Rows with a box as those of some images, one image after the other."""
    at = {image: place for place, image in enumerate(images)}
    items = np.array([at[image] for image in rows["image"].to_pylist()], np.int64)
    order = np.argsort(items, kind="stable")
    vectors = vectors_of(rows) if rows.num_rows else np.zeros((0, dim), np.float32)
    return ImageRows(tuple(images), np.ascontiguousarray(vectors[order]), items[order], corners(rows)[order])
