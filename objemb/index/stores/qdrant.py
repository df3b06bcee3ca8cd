"""Qdrant: collections of points, in which versions of a photo replace each other."""

from __future__ import annotations

import contextlib
import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from objemb.index.addresses import Address
from objemb.index.filters.columns import METADATA_PREFIX, type_of
from objemb.index.filters.syntax import Compare, Either, Every, IsNull, Node, Not, OneOf, Value
from objemb.index.remote.rows import empty_rows, metadata_of, row_schema, value_types, whole_photos
from objemb.index.stores._columns import column_of, in_columns, value_of
from objemb.index.stores.base import Nearest, Store, StoreError, StoreFacts
from objemb.registry import plugin
from objemb.types import Float32Array

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

#: The port of Qdrant's HTTP interface.
PORT = 6333
#: Points that are sent or read at once.
POINTS_AT_ONCE = 500
#: Points that are looked at together when versions are compared.
ROWS_AT_ONCE = 50_000
#: How long a part of a photo is taken for one that is being written.
KEPT_SECONDS = 3600.0
#: The namespace of ids of points.
_IDS = uuid.UUID("6f1c3a52-5d0e-4f0a-9a39-0b1f7e4d2c11")
#: The largest finite float, which stands for infinity: JSON has no word for it.
_LARGEST = float(np.finfo(np.float64).max)


@plugin
class Qdrant(Store):
    """A collection of a Qdrant server: ``qdrant://host:6333/shop``, with TLS ``qdrant+https://host:6333/shop``.

    Rows are points of ``shop``, the header and the metadata columns are points of ``shop_header``. Qdrant has no
    transactions: a new version of a photo is written beside the old one, which is deleted afterwards, and readers use
    the newest version of which all boxes are there. A writer that is killed leaves such a version; indexing the photo
    again, or deleting it, removes it.

    Args:
        address: The address.
    """

    credentials = "take the key from the variable QDRANT_API_KEY"
    example = "qdrant://host:6333/shop"

    def __init__(self, address: Address) -> None:
        super().__init__(address.only_options())
        name = address.path.strip("/")
        if address.transport not in ("", "https") or not address.host or not re.fullmatch(r"[A-Za-z0-9_-]{1,80}", name):
            raise ValueError(
                f"{address}: expected {self.example} or qdrant+https://..., with a name of letters, digits, _ and -"
            )
        self._name = name
        with self._translated():
            self._client = connect(address)

    @property
    def name(self) -> str:
        """As :attr:`Store.name`."""
        return self._name

    def header(self) -> dict[str, str]:
        """As :meth:`Store.header`."""
        points = self._header_points("text")
        return {payload["name"]: payload["value"] for payload in points}

    def put_header(self, texts: Mapping[str, str | None]) -> None:
        """As :meth:`Store.put_header`; texts that are stored are stored together."""
        from qdrant_client import models

        with self._translated():
            self._make_header()
            removed: list[Any] = [_id("text", name) for name, value in texts.items() if value is None]
            points = [
                models.PointStruct(
                    id=_id("text", name), vector=[0.0], payload={"kind": "text", "name": name, "value": value}
                )
                for name, value in texts.items()
                if value is not None
            ]
            if points:
                self._client.upsert(self._header_name, points, wait=True)
            if removed:
                selector = models.PointIdsList(points=removed)
                self._client.delete(self._header_name, selector, wait=True)
            self._changed(None)

    def version(self, generation: int | None) -> int:
        """As :meth:`Store.version`: when the last change was made, in nanoseconds."""
        points = self._header_points("version")
        return max((int(point["value"]) for point in points if point.get("generation") == generation), default=0)

    def create(self, generation: int, dim: int) -> None:
        """As :meth:`Store.create`."""
        from qdrant_client import models

        with self._translated():
            self._make_header()
            table = self._table(generation)
            if self._client.collection_exists(table):
                return
            vectors = models.VectorParams(size=dim, distance=models.Distance.DOT)
            self._client.create_collection(table, vectors_config=vectors)
            # strict servers refuse filters without an index of the payload, and others are slow
            for field, kind in (
                ("image", models.PayloadSchemaType.KEYWORD),
                ("label", models.PayloadSchemaType.KEYWORD),
                ("box", models.PayloadSchemaType.INTEGER),
                ("number", models.PayloadSchemaType.INTEGER),
            ):
                self._client.create_payload_index(table, field, kind, wait=True)

    def drop(self, generation: int) -> None:
        """As :meth:`Store.drop`."""
        from qdrant_client import models

        with self._translated():
            self._client.delete_collection(self._table(generation))
            of_it = models.Filter(must=[_equal("kind", "field"), _equal("generation", generation)])
            self._client.delete(self._header_name, models.FilterSelector(filter=of_it), wait=True)

    def fields(self, generation: int) -> dict[str, frozenset[str]]:
        """As :meth:`Store.fields`."""
        types: dict[str, frozenset[str]] = {}
        for payload in self._header_points("field"):
            if payload["generation"] == generation:
                kind = payload["type"]
                types[payload["key"]] = types.get(payload["key"], frozenset()) | ({kind} if kind else frozenset())
        return types

    def replace(self, generation: int, rows: pa.Table) -> None:
        """As :meth:`Store.replace`: the new versions are written, then the older ones deleted."""
        from qdrant_client import models

        with self._translated():
            table = self._table(generation)
            self._add_fields(generation, value_types(rows["metadata"].unique().to_pylist()))
            for first in range(0, rows.num_rows, POINTS_AT_ONCE):
                points = [
                    models.PointStruct(id=_id(row["image"], row["number"], row["box"]), vector=vector, payload=row)
                    for row, vector in _payloads(rows.slice(first, POINTS_AT_ONCE))
                ]
                self._client.upsert(table, points, wait=True)
            numbers = dict(zip(rows["image"].to_pylist(), rows["number"].to_pylist(), strict=True))
            own = models.FieldCondition(key="number", match=models.MatchAny(any=list(numbers.values())))
            before = models.FieldCondition(key="number", range=models.Range(lt=max(numbers.values())))
            others = models.Filter(must=[before, _any_of("image", list(numbers))], must_not=[own])
            older: list[Any] = [
                point.id
                for point in self._points(table, others, ["image", "number"])
                if point.payload["number"] < numbers[point.payload["image"]]
            ]
            self._remove(table, older)
            self._changed(generation)

    def delete(self, generation: int, images: Sequence[str]) -> None:
        """As :meth:`Store.delete`."""
        from qdrant_client import models

        if not images:
            return
        with self._translated():
            selector = models.FilterSelector(filter=models.Filter(must=[_any_of("image", images)]))
            self._client.delete(self._table(generation), selector, wait=True)
            self._changed(generation)

    def says(self, leaf: Node) -> bool:
        """As :meth:`Store.says`: as far as :func:`in_columns`, without the order of texts."""
        is_text_order = isinstance(leaf, Compare) and leaf.operator not in ("=", "!=") and isinstance(leaf.value, str)
        return in_columns(leaf) and not is_text_order

    def nearest(
        self, generation: int, vectors: Float32Array, count: int, where: Node | None, *, exact: bool
    ) -> list[Nearest]:
        """As :meth:`Store.nearest`: all vectors in one request."""
        from qdrant_client import models

        with self._translated():
            requests = [
                models.QueryRequest(
                    query=vector.tolist(),
                    filter=_with_box(where),
                    limit=count,
                    params=models.SearchParams(exact=exact),
                    with_payload=["image"],
                )
                for vector in vectors
            ]
            found = self._client.query_batch_points(self._table(generation), requests)
        return [
            Nearest(
                [(point.payload or {})["image"] for point in answer.points],
                np.array([point.score for point in answer.points], np.float32),
            )
            for answer in found
        ]

    def count(self, generation: int, where: Node | None, most: int) -> int:
        """As :meth:`Store.count`; all are counted."""
        with self._translated():
            table = self._table(generation)
            return min(most, int(self._client.count(table, count_filter=_with_box(where), exact=True).count))

    def rows(self, generation: int, images: Sequence[str], columns: Sequence[str]) -> pa.Table:
        """As :meth:`Store.rows`."""
        with self._translated():
            return _table(list(self._points(self._table(generation), _any_of("image", images), columns)), columns)

    def images_of(self, generation: int, numbers: Sequence[int]) -> list[str]:
        """As :meth:`Store.images_of`."""
        from qdrant_client import models

        among = models.FieldCondition(key="number", match=models.MatchAny(any=list(numbers)))
        with self._translated():
            points = self._points(self._table(generation), among, ["image"])
            return list(dict.fromkeys(point.payload["image"] for point in points))

    def scan(self, generation: int, columns: Sequence[str], batch: int) -> Iterator[pa.Table]:
        """As :meth:`Store.scan`, page by page: points that change meanwhile are there or not."""
        held = []
        with self._translated():
            for point in self._points(self._table(generation), None, columns):
                held.append(point)
                if len(held) >= batch:
                    yield _table(held, columns)
                    held = []
            yield _table(held, columns)

    def facts(self, generation: int) -> StoreFacts:
        """As :meth:`Store.facts`; of a photo that is being replaced, both versions count. The server does not tell
        bytes."""
        from qdrant_client import models

        with self._translated():
            table = self._table(generation)
            first = models.Filter(must=[models.FieldCondition(key="box", range=models.Range(lte=0))])
            images = self._client.count(table, count_filter=first, exact=True).count
            rows = self._client.count(table, count_filter=_with_box(None), exact=True).count
            about = self._client.get_collection(table)
        indexed = about.indexed_vectors_count or 0
        details = {"status": str(about.status), "segments": about.segments_count, "collection": table}
        return StoreFacts(images, rows, None, "hnsw" if indexed else None, indexed, details)

    def build(self, generation: int) -> None:
        """As :meth:`Store.build`: the server builds HNSW indexes by itself, from now on also of small segments."""
        from qdrant_client import models

        with self._translated():
            changed = models.OptimizersConfigDiff(indexing_threshold=1000)
            self._client.update_collection(self._table(generation), optimizers_config=changed)
            self._changed(generation)

    def compact(self, generation: int) -> None:
        """As :meth:`Store.compact`: the server does that by itself. Versions of photos are deleted that killed writers
        have left: older ones, and those of an hour ago or more of which a part is there."""
        columns = ("image", "number", "box", "boxes")
        rows = pa.concat_tables([empty_rows(1, columns), *self.scan(generation, columns, ROWS_AT_ONCE)])
        newest = dict(_numbers(whole_photos(rows)))
        latest = time.time_ns() - round(1e9 * KEPT_SECONDS)
        left: list[Any] = [
            _id(image, number, box)
            for (image, number), box in zip(_numbers(rows), rows["box"].to_pylist(), strict=True)
            if number < newest.get(image, latest) or (number != newest.get(image) and number < latest)
        ]
        with self._translated():
            self._remove(self._table(generation), left)
            if left:
                self._changed(generation)

    def close(self) -> None:
        """As :meth:`Store.close`."""
        self._client.close()

    @property
    def _header_name(self) -> str:
        return f"{self._name}_header"

    def _table(self, generation: int) -> str:
        return self._name if not generation else f"{self._name}_g{generation}"

    def _make_header(self) -> None:
        from qdrant_client import models

        if not self._client.collection_exists(self._header_name):
            vectors = models.VectorParams(size=1, distance=models.Distance.DOT)
            self._client.create_collection(self._header_name, vectors_config=vectors)
            self._client.create_payload_index(self._header_name, "kind", models.PayloadSchemaType.KEYWORD, wait=True)
            self._client.create_payload_index(
                self._header_name, "generation", models.PayloadSchemaType.INTEGER, wait=True
            )

    def _header_points(self, kind: str) -> list[dict[str, Any]]:
        with self._translated():
            if not self._client.collection_exists(self._header_name):
                return []
            columns = ["name", "value", "key", "type", "generation"]
            return [dict(p.payload or {}) for p in self._points(self._header_name, _equal("kind", kind), columns)]

    def _add_fields(self, generation: int, types: Mapping[str, set[str]]) -> None:
        """Store the metadata columns that are new, and index them."""
        from qdrant_client import models

        known = self.fields(generation)
        schemas = {
            "text": models.PayloadSchemaType.KEYWORD,
            "number": models.PayloadSchemaType.FLOAT,
            "boolean": models.PayloadSchemaType.BOOL,
        }
        points = []
        for key, kinds in types.items():
            for kind in sorted(kinds) or [""]:
                if key in known and (not kind or kind in known[key]):
                    continue
                payload = {"kind": "field", "generation": generation, "key": key, "type": kind}
                points.append(models.PointStruct(id=_id("field", generation, key, kind), vector=[0.0], payload=payload))
                if kind:
                    column = column_of(kind, key)
                    self._client.create_payload_index(self._table(generation), column, schemas[kind], wait=True)
        if points:
            self._client.upsert(self._header_name, points, wait=True)

    def _remove(self, table: str, points: Sequence[Any]) -> None:
        """Delete points by their ids."""
        from qdrant_client import models

        for first in range(0, len(points), POINTS_AT_ONCE):
            selector = models.PointIdsList(points=list(points[first : first + POINTS_AT_ONCE]))
            self._client.delete(table, selector, wait=True)

    def _changed(self, generation: int | None) -> None:
        """Note a change of the rows of a generation, or of the header."""
        from qdrant_client import models

        payload = {"kind": "version", "generation": generation, "value": str(time.time_ns())}
        point = models.PointStruct(id=_id("version", generation), vector=[0.0], payload=payload)
        self._client.upsert(self._header_name, [point], wait=True)

    def _points(self, table: str, condition: Any, columns: Sequence[str]) -> Iterator[Any]:
        """Points that fulfil a condition, with some columns."""
        from qdrant_client import models

        where = None if condition is None else models.Filter(must=[condition])
        offset = None
        while True:
            page, offset = self._client.scroll(
                table,
                scroll_filter=where,
                limit=POINTS_AT_ONCE,
                offset=offset,
                with_payload=[name for name in columns if name != "vector"],
                with_vectors="vector" in columns,
            )
            yield from page
            if offset is None:
                return

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Errors of the server and of the connection as those of objemb."""
        try:
            from qdrant_client.common.client_exceptions import QdrantException
            from qdrant_client.http.exceptions import ApiException
        except ImportError as error:
            raise ImportError("index.stores: 'qdrant' needs its client: pip install 'objemb[qdrant]'") from error
        try:
            yield
        except (ApiException, QdrantException, ValueError, OSError) as error:
            line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise StoreError(f"{self.address}: {line}") from error


def connect(address: Address) -> QdrantClient:
    """A client of the server at an address."""
    from qdrant_client import QdrantClient

    scheme, port = address.transport or "http", address.port or PORT
    host = f"[{address.host}]" if ":" in address.host else address.host
    key = os.environ.get("QDRANT_API_KEY")
    return QdrantClient(url=f"{scheme}://{host}:{port}", api_key=key, timeout=60)


def _id(*parts: object) -> str:
    return str(uuid.uuid5(_IDS, "\0".join(map(str, parts))))


def _payloads(rows: pa.Table) -> Iterator[tuple[dict[str, Any], list[float]]]:
    """The payload of each row, with the values of its metadata by type, and its vector."""
    parsed: dict[str, dict[str, Any]] = {}
    for row in rows.to_pylist():
        vector, text = row.pop("vector"), row["metadata"]
        if text not in parsed:
            typed = {
                column_of(kind, key): value_of(value, kind)
                for key, value in metadata_of(text).items()
                for kind in ("text", "number", "boolean")
            }
            parsed[text] = {name: _finite(value) for name, value in typed.items() if value is not None}
        yield {**row, **parsed[text]}, vector


def _numbers(rows: pa.Table) -> Iterator[tuple[str, int]]:
    """The image and the number of each row."""
    return zip(rows["image"].to_pylist(), rows["number"].to_pylist(), strict=True)


def _finite(value: Any) -> Any:
    return max(-_LARGEST, min(_LARGEST, value)) if isinstance(value, float) else value


def _table(points: Sequence[Any], columns: Sequence[str]) -> pa.Table:
    """An Arrow table of points."""
    dim = len(points[0].vector) if points and "vector" in columns else 1
    schema = row_schema(dim)
    arrays = []
    for name in columns:
        if name == "vector":
            flat = np.array([point.vector for point in points], np.float32).reshape(-1)
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, dim))
        else:
            arrays.append(pa.array([point.payload.get(name) for point in points], schema.field(name).type))
    return pa.table(arrays, schema=pa.schema([schema.field(name) for name in columns]))


def _equal(key: str, value: Value) -> Any:
    from qdrant_client import models

    if type_of(value) == "number":
        return models.FieldCondition(key=key, range=models.Range(gte=float(value), lte=float(value)))
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))  # type: ignore[arg-type]


def _any_of(key: str, values: Sequence[str]) -> Any:
    from qdrant_client import models

    return models.FieldCondition(key=key, match=models.MatchAny(any=list(values)))


def _present(keys: Sequence[str]) -> Any:
    """One of some keys has a value."""
    from qdrant_client import models

    empty: list[Any] = [models.IsEmptyCondition(is_empty=models.PayloadField(key=key)) for key in keys]
    return models.Filter(must_not=[models.Filter(must=empty)])


def _with_box(where: Node | None) -> Any:
    """A filter in normal form as that of Qdrant, of rows that have a box."""
    from qdrant_client import models

    box = models.FieldCondition(key="box", range=models.Range(gte=0))
    return models.Filter(must=[box] if where is None else [box, _said(where)])


def _said(node: Node) -> Any:
    """A filter in normal form as a condition. Qdrant's ``must_not`` is true for points without the key, so that every
    negation asks for a value, too."""
    from qdrant_client import models

    if isinstance(node, Every):
        return models.Filter(must=[_said(part) for part in node.parts])
    if isinstance(node, Either):
        return models.Filter(should=[_said(part) for part in node.parts])
    negated, leaf = (True, node.part) if isinstance(node, Not) else (False, node)
    assert not isinstance(leaf, Not | Every | Either), "a filter in normal form"
    own, key = not leaf.field.startswith(METADATA_PREFIX), leaf.field.removeprefix(METADATA_PREFIX)
    keys = {"text": key} if own else {kind: column_of(kind, key) for kind in ("text", "number", "boolean")}
    if isinstance(leaf, IsNull):
        there = _present(list(keys.values()))
        return there if negated else models.Filter(must_not=[there])
    if isinstance(leaf, OneOf):
        among = [_equal(keys[type_of(value)], value) for value in leaf.values if type_of(value) in keys]
        if negated:
            return models.Filter(must=[_present(list(keys.values()))], must_not=among)
        return models.Filter(should=among) if among else _nothing()
    kind, value = type_of(leaf.value), leaf.value
    if kind not in keys:
        return _nothing()
    if leaf.operator == "=":
        return _equal(keys[kind], value)
    if leaf.operator == "!=":
        return models.Filter(must=[_present([keys[kind]])], must_not=[_equal(keys[kind], value)])
    bound = {{"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}[leaf.operator]: float(value)}
    return models.FieldCondition(key=keys[kind], range=models.Range(**bound))


def _nothing() -> Any:
    """A condition that no point fulfils."""
    from qdrant_client import models

    return models.HasIdCondition(has_id=[])
