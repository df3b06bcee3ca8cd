"""Lance tables on a local file system or an object store, changed by one new version at a time."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from objemb.index.addresses import Address
from objemb.index.filters.columns import METADATA_PREFIX, type_of
from objemb.index.filters.syntax import Either, Every, IsNull, Node, Not, OneOf, Value
from objemb.index.remote.rows import metadata_of, row_schema, value_types
from objemb.index.stores._columns import column_of, field_of, in_columns, value_of
from objemb.index.stores.base import Nearest, Store, StoreError, StoreFacts
from objemb.registry import plugin
from objemb.types import Float32Array

T = TypeVar("T")

#: How addresses begin, and the URIs that they stand for.
TRANSPORTS = {"": "", "s3": "s3://", "gs": "gs://", "az": "az://"}
#: Options of an address for an object store, by the name that Lance has for them.
OPTIONS = {"region": "aws_region", "endpoint": "aws_endpoint", "allow_http": "allow_http"}
#: Prefixes of the columns that hold the metadata for filters, by type; ``null`` marks a column of nulls only.
_KINDS = {"text": pa.string(), "number": pa.float64(), "boolean": pa.bool_(), "null": pa.bool_()}
#: Marks a column of the primary key.
PRIMARY_KEY = {"lance-schema:unenforced-primary-key": "true"}
#: What Lance says to a writer that another was quicker than: of rows, and of a column that both add.
_OVERTAKEN = r"conflict|concurrent|Column \w+ already exists"
#: How long a version is kept that a reader may still read.
KEPT_VERSIONS = timedelta(hours=1)
#: Attempts to publish a version when another writer was quicker.
_ATTEMPTS = 10


@plugin
class Lance(Store):
    """Tables of LanceDB: ``lance:/data/shop`` is ``/data/shop.lance``, ``lance+s3://bucket/shop`` is in a bucket.

    Rows lie in ``shop``, the header in ``shop_header``. Metadata have further columns for filters, one for each type of
    value, which are added when a key first occurs. A batch of photos is one ``merge_insert``, which makes one version.

    Args:
        address: The address; the options ``region``, ``endpoint`` and ``allow_http`` are for object stores.
    """

    credentials = "take them from where every client of the object store does, such as AWS_SECRET_ACCESS_KEY or ~/.aws"
    example = "lance:/data/shop"

    def __init__(self, address: Address) -> None:
        super().__init__(address.only_options(*OPTIONS))
        name = address.path.rstrip("/").rpartition("/")[2]
        if address.transport not in TRANSPORTS or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
            raise ValueError(
                f"{address}: expected an address such as {self.example} or lance+s3://bucket/shop, whose last part is "
                "a name of letters, digits, _ and -"
            )
        self._name = name
        self._options = {OPTIONS[key]: value for key, value in address.options.items()}
        parent = address.path.rstrip("/").rpartition("/")[0]
        self._is_local = not address.transport
        if self._is_local and address.host:
            raise ValueError(f"{address}: expected {self.example}, with one slash, found the host {address.host!r}")
        self._uri = (parent or ("/" if address.path.startswith("/") else ".")) if self._is_local else (
            f"{TRANSPORTS[address.transport]}{address.host}{parent}"
        )  # fmt: skip
        try:
            import lancedb
        except ImportError as error:
            raise ImportError("index.stores: 'lance' needs LanceDB: pip install 'objemb[lance]'") from error
        with self._translated():
            # 0: a table that is open shows every new version
            self._database = lancedb.connect(
                self._uri, read_consistency_interval=timedelta(0), storage_options=self._options or None
            )
        self._tables: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """As :attr:`Store.name`."""
        return self._name

    def header(self) -> dict[str, str]:
        """As :meth:`Store.header`."""
        with self._translated():
            table = self._opened(f"{self._name}_header")
            if table is None:
                return {}
            rows = table.search().limit(1_000_000).to_arrow()
            return dict(zip(rows["name"].to_pylist(), rows["value"].to_pylist(), strict=True))

    def put_header(self, texts: Mapping[str, str | None]) -> None:
        """As :meth:`Store.put_header`: one version."""
        name = f"{self._name}_header"
        schema = pa.schema([("name", pa.string()), ("value", pa.string())])
        kept = {key: value for key, value in texts.items() if value is not None}
        rows = pa.table({"name": list(kept), "value": list(kept.values())}, schema=schema)
        removed = [key for key, value in texts.items() if value is None]

        def write() -> None:
            table = self._opened(name) or self._database.create_table(name, schema=schema, exist_ok=True)
            change = table.merge_insert("name").when_matched_update_all().when_not_matched_insert_all()
            if removed:
                change = change.when_not_matched_by_source_delete(_among("name", removed))
            change.execute(rows)

        self._tried(write)

    def version(self, generation: int | None) -> int:
        """As :meth:`Store.version`: that of the table."""
        with self._translated():
            table = self._opened(f"{self._name}_header" if generation is None else self._table(generation))
            return 0 if table is None else int(table.version)

    def create(self, generation: int, dim: int) -> None:
        """As :meth:`Store.create`.

        Rows have a primary key: without one, writers that add the same new image at once both do, since Lance looks for
        conflicts among the rows that a ``merge_insert`` changes, not among those that it adds.
        """
        schema = row_schema(dim)
        for name in ("image", "box"):
            number = schema.get_field_index(name)
            schema = schema.set(number, schema.field(number).with_metadata(PRIMARY_KEY))
        with self._translated():
            self._database.create_table(self._table(generation), schema=schema, exist_ok=True)

    def drop(self, generation: int) -> None:
        """As :meth:`Store.drop`."""
        with self._translated():
            if self._opened(self._table(generation)) is not None:
                self._database.drop_table(self._table(generation))
                del self._tables[self._table(generation)]

    def fields(self, generation: int) -> dict[str, frozenset[str]]:
        """As :meth:`Store.fields`, from the names of the columns."""
        with self._translated():
            names = self._rows(generation).schema.names
        types: dict[str, frozenset[str]] = {}
        for kind, key in filter(None, map(field_of, names)):
            types[key] = types.get(key, frozenset()) | ({kind} if kind != "null" else frozenset())
        return types

    def replace(self, generation: int, rows: pa.Table) -> None:
        """As :meth:`Store.replace`: one version, unless metadata columns have to be added before, or another writer
        publishes meanwhile.

        Looking for rows to delete joins the whole table, hence it is left out if no image is there.
        """
        among = _among("image", rows["image"].unique().to_pylist())
        numbers = rows["number"].unique().to_pylist()
        types = value_types(rows["metadata"].unique().to_pylist())
        wanted = {column_of(kind, key): _KINDS[kind] for key, kinds in types.items() for kind in kinds or {"null"}}

        def write() -> None:
            table = self._rows(generation)
            missing = {name: kind for name, kind in wanted.items() if name not in table.schema.names}
            if missing:
                table.add_columns(pa.schema(list(missing.items())))
            filled, before = _with_fields(rows, table.schema), table.version
            are_new = not table.count_rows(among)
            change = table.merge_insert(["image", "box"]).when_matched_update_all().when_not_matched_insert_all()
            if not are_new:
                change = change.when_not_matched_by_source_delete(among)
            made = change.execute(filled)
            if are_new and made.version != before + 1:
                # what was written between may hold more boxes of these images
                table.delete(f"{among} AND number NOT IN ({', '.join(map(str, numbers))})")

        self._tried(write)

    def delete(self, generation: int, images: Sequence[str]) -> None:
        """As :meth:`Store.delete`: one version."""
        if images:
            self._tried(lambda: self._rows(generation).delete(_among("image", images)))

    def says(self, leaf: Node) -> bool:
        """As :meth:`Store.says`: as far as :func:`in_columns`."""
        return in_columns(leaf)

    def nearest(
        self, generation: int, vectors: Float32Array, count: int, where: Node | None, *, exact: bool
    ) -> list[Nearest]:
        """As :meth:`Store.nearest`."""
        with self._translated():
            table = self._rows(generation)
            condition = _condition(where, set(table.schema.names))
            found = []
            for vector in vectors:
                query = table.search(vector, vector_column_name="vector").distance_type("dot")
                query = query.bypass_vector_index() if exact else query.nprobes(NPROBES).refine_factor(REFINE)
                query = query.where(condition, prefilter=True).limit(count).select(["image", "_distance"])
                rows = query.to_arrow()
                scores = 1 - rows["_distance"].to_numpy()
                order = np.argsort(-scores, kind="stable")
                images = rows["image"].to_pylist()
                found.append(Nearest([images[n] for n in order.tolist()], scores[order].astype(np.float32)))
            return found

    def count(self, generation: int, where: Node | None, most: int) -> int:
        """As :meth:`Store.count`; all are counted."""
        with self._translated():
            table = self._rows(generation)
            return min(most, int(table.count_rows(_condition(where, set(table.schema.names)))))

    def rows(self, generation: int, images: Sequence[str], columns: Sequence[str]) -> pa.Table:
        """As :meth:`Store.rows`."""
        with self._translated():
            query = self._rows(generation).search().where(_among("image", images)).select(list(columns))
            return _plain(query.limit(_ALL).to_arrow(), columns)

    def images_of(self, generation: int, numbers: Sequence[int]) -> list[str]:
        """As :meth:`Store.images_of`; reads all numbers where no index for approximate search was built."""
        with self._translated():
            among = f"box <= 0 AND number IN ({', '.join(map(str, numbers))})"
            found = self._rows(generation).search().where(among).select(["image"]).limit(_ALL).to_arrow()
            images: list[str] = found["image"].to_pylist()
            return images

    def scan(self, generation: int, columns: Sequence[str], batch: int) -> Iterator[pa.Table]:
        """As :meth:`Store.scan`: of one version."""
        with self._translated():
            query = self._rows(generation).search().select(list(columns)).limit(_ALL)
            for part in query.to_batches(batch_size=batch):
                yield _plain(pa.Table.from_batches([part]), columns)

    def facts(self, generation: int) -> StoreFacts:
        """As :meth:`Store.facts`."""
        with self._translated():
            table = self._rows(generation)
            images, rows = table.count_rows("box <= 0"), table.count_rows("box >= 0")
            name = next((index.name for index in table.list_indices() if index.columns == ["vector"]), None)
            stats = None if name is None else table.index_stats(name)
            details = {"versions": len(table.list_versions()), "table": self._table(generation)}
        size = None
        if self._is_local:
            folder = Path(self._uri) / f"{self._table(generation)}.lance"
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        kind = None if stats is None else str(stats.index_type).lower()
        return StoreFacts(images, rows, size, kind, 0 if stats is None else int(stats.num_indexed_rows), details)

    def build(self, generation: int) -> None:
        """As :meth:`Store.build`: IVF-HNSW with a byte per number for vectors, B-trees for images and their numbers;
        small files are joined before."""
        from lancedb.index import BTree, HnswSq

        def make() -> None:
            table = self._rows(generation)
            table.optimize()
            for column in ("image", "number"):
                table.create_index(column, config=BTree(), replace=True)
            partitions = max(1, round(math.sqrt(table.count_rows()) / 8))
            config = HnswSq(distance_type="dot", num_partitions=partitions)
            table.create_index("vector", config=config, replace=True)

        self._tried(make)

    def compact(self, generation: int) -> None:
        """As :meth:`Store.compact`: small files are joined, and versions before those of the last hour removed, which
        nobody reads any more."""
        self._tried(lambda: self._rows(generation).optimize(cleanup_older_than=KEPT_VERSIONS))

    def _table(self, generation: int) -> str:
        return self._name if not generation else f"{self._name}_g{generation}"

    def _rows(self, generation: int) -> Any:
        table = self._opened(self._table(generation))
        if table is None:
            raise StoreError(f"{self.address}: expected the table {self._table(generation)!r}, found none")
        return table

    def _opened(self, name: str) -> Any:
        """A table, which shows the latest version; None if it is not there."""
        if name not in self._tables:
            try:
                self._tables[name] = self._database.open_table(name)
            except (ValueError, FileNotFoundError) as error:
                if "not found" not in str(error):
                    raise
                return None
        return self._tables[name]

    def _tried(self, work: Callable[[], T]) -> T:
        """Do some work again if another writer has published a version meanwhile."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with self._translated():
                    return work()
            except StoreError as error:
                if attempt == _ATTEMPTS or not re.search(_OVERTAKEN, str(error), re.IGNORECASE):
                    raise
        raise AssertionError("the last attempt returns or raises")

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Errors of Lance as those of objemb."""
        try:
            yield
        except (RuntimeError, OSError, ValueError) as error:
            line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise StoreError(f"{self.address}: {line}") from error


#: More rows than a table has: without a limit, a query returns ten.
_ALL = (1 << 31) - 1
#: Partitions that an approximate search looks at, and rows of each that are compared by their full vectors.
NPROBES, REFINE = 24, 4


def _plain(rows: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Rows as :func:`objemb.index.remote.rows.row_schema` has them."""
    kinds = {field.name: field.type for field in row_schema(1)}
    kinds["vector"] = rows.schema.field("vector").type if "vector" in columns else kinds["vector"]
    nullable = {field.name: field.nullable for field in row_schema(1)}
    return rows.select(list(columns)).cast(pa.schema([pa.field(n, kinds[n], nullable[n]) for n in columns]))


def _with_fields(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows with the columns of a table, those of the metadata included."""
    texts = rows["metadata"].combine_chunks().dictionary_encode()
    objects = [metadata_of(text) for text in texts.dictionary.to_pylist()]
    columns = []
    for field in schema:
        parsed = None if field.name in rows.column_names else field_of(field.name)
        if parsed is None:
            columns.append(rows[field.name])
            continue
        kind, key = parsed
        values = [value_of(one.get(key), kind) for one in objects]
        columns.append(pa.array(values, field.type).take(texts.indices))
    return pa.table(columns, schema=schema)


def _among(column: str, texts: Sequence[str]) -> str:
    return f"{column} IN ({', '.join(map(_literal, texts))})"


def _literal(value: Value) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return json.dumps(value) if isinstance(value, bool) else repr(float(value))


def _condition(where: Node | None, columns: set[str]) -> str:
    """A filter in normal form as SQL, of rows that have a box."""
    return "box >= 0" if where is None else f"box >= 0 AND {_said(where, columns)}"


def _said(node: Node, columns: set[str]) -> str:
    if isinstance(node, Every | Either):
        word = " AND " if isinstance(node, Every) else " OR "
        return "(" + word.join(_said(part, columns) for part in node.parts) + ")"
    negated, leaf = (True, node.part) if isinstance(node, Not) else (False, node)
    assert not isinstance(leaf, Not | Every | Either), "a filter in normal form"
    own = not leaf.field.startswith(METADATA_PREFIX)
    key = leaf.field.removeprefix(METADATA_PREFIX)
    of_type = {"text": leaf.field} if own else {kind: column_of(kind, key) for kind in ("text", "number", "boolean")}
    here = {kind: f"`{name}`" for kind, name in of_type.items() if own or name in columns}
    present = "(" + (" OR ".join(f"{name} IS NOT NULL" for name in here.values()) or "false") + ")"
    if isinstance(leaf, IsNull):
        return present if negated else f"(NOT {present})"
    if isinstance(leaf, OneOf):
        parts = [f"coalesce({here[type_of(v)]} = {_literal(v)}, false)" for v in leaf.values if type_of(v) in here]
        among = "(" + (" OR ".join(parts) or "false") + ")"
        return f"({present} AND NOT {among})" if negated else among
    if type_of(leaf.value) not in here:
        return "false"
    return f"coalesce({here[type_of(leaf.value)]} {leaf.operator} {_literal(leaf.value)}, false)"
