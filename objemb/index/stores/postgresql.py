"""PostgreSQL with pgvector: one table of rows, replaced by transactions."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import RLock
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import pyarrow as pa

from objemb.index.addresses import Address
from objemb.index.filters.syntax import Node
from objemb.index.remote.rows import COLUMNS, metadata_of, row_schema, value_types
from objemb.index.stores._sql import INFINITY, condition
from objemb.index.stores.base import Nearest, Store, StoreError, StoreFacts
from objemb.registry import plugin
from objemb.structures import Scalar
from objemb.types import Float32Array

if TYPE_CHECKING:
    from psycopg import Connection, Cursor
    from psycopg.sql import Composed

T = TypeVar("T")

#: The longest name of a table, so that those of its indexes fit into 63 bytes.
MAX_NAME = 40
#: Rows that an index for approximate search looks at beyond those that are asked for, and the most it can look at.
EF_SEARCH, MOST_EF_SEARCH = 100, 1000
#: The longest vectors that an index for approximate search can hold.
MOST_INDEXED = 2000
#: Types of the columns in the order of :data:`objemb.index.remote.rows.COLUMNS`, without metadata and vector.
_TYPES = {
    **{"image": "text", "number": "bigint", "box": "integer", "boxes": "integer"},
    **dict.fromkeys(("x1", "y1", "x2", "y2", "score"), "real"),
    **{"label": "text", "height": "integer", "width": "integer", "stamp": "text"},
}


@plugin
class Postgresql(Store):
    """A table of a PostgreSQL database with the extension pgvector 0.5 or later: ``postgresql://host/db?table=shop``.

    Rows lie in ``shop``, the header in ``shop_header``, the metadata columns in ``shop_fields``. A batch of photos is a
    transaction, and transactions of several writers follow each other. Options of the address other than ``table``
    and ``schema`` go to the client: ``sslmode``, ``sslrootcert``, ``connect_timeout`` ...

    Args:
        address: The address; without host, port or user those of libpq's environment (``PGHOST`` ...) count.
    """

    credentials = "take the password from the variable PGPASSWORD or the file ~/.pgpass, as every client of PostgreSQL"
    example = "postgresql://host/db?table=shop"

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        table, schema = address.options.get("table", ""), address.options.get("schema")
        if not re.fullmatch(rf"[a-z_][a-z0-9_]{{0,{MAX_NAME - 1}}}", table):
            raise ValueError(
                f"{address}: expected ?table=NAME of at most {MAX_NAME} lower-case letters, digits and _, "
                f"as in {self.example}, found {table!r}"
            )
        if address.transport:
            raise ValueError(f"{address}: expected {self.example}, found the transport {address.transport!r}")
        database = address.path.strip("/")
        given = {"host": address.host, "port": address.port, "user": address.user, "dbname": database}
        self._asked: dict[str, Any] = {name: value for name, value in given.items() if value}
        self._asked |= {name: value for name, value in address.options.items() if name not in ("table", "schema")}
        self._schema = schema
        self._name = table
        self._lock = RLock()
        self._held: Connection[Any] | None = None
        self._connection()

    @property
    def name(self) -> str:
        """As :attr:`Store.name`."""
        return self._name

    def header(self) -> dict[str, str]:
        """As :meth:`Store.header`."""

        def read(cursor: Cursor[Any]) -> dict[str, str]:
            cursor.execute("SELECT to_regclass(%s)", [self._quoted(f"{self._name}_header")])
            if _one(cursor) is None:
                return {}
            cursor.execute(self._sql("SELECT name, value FROM {header} WHERE name !~ '^version'"))
            return dict(cursor.fetchall())

        return self._done(read)

    def put_header(self, texts: Mapping[str, str | None]) -> None:
        """As :meth:`Store.put_header`."""

        def write(cursor: Cursor[Any]) -> None:
            self._make_header(cursor)
            self._begin(cursor)
            for name, value in texts.items():
                cursor.execute(self._sql("DELETE FROM {header} WHERE name = %s"), [name])
                if value is not None:
                    cursor.execute(self._sql("INSERT INTO {header} (name, value) VALUES (%s, %s)"), [name, value])
            self._end(cursor, None)

        self._done(write)

    def version(self, generation: int | None) -> int:
        """As :meth:`Store.version`: the number of transactions that have changed it."""

        def read(cursor: Cursor[Any]) -> int:
            cursor.execute(self._sql("SELECT value::bigint FROM {header} WHERE name = %s"), [_version_of(generation)])
            return int(_one(cursor) or 0)

        return self._done(read)

    def create(self, generation: int, dim: int) -> None:
        """As :meth:`Store.create`."""

        def make(cursor: Cursor[Any]) -> None:
            self._make_extension(cursor)
            self._make_header(cursor)
            columns = ", ".join(
                f"{name} {kind}{'' if name in ('label', 'stamp') else ' NOT NULL'}" for name, kind in _TYPES.items()
            )
            self._run(
                cursor,
                f"CREATE TABLE IF NOT EXISTS {{rows}} ({columns}, metadata jsonb NOT NULL, verbatim text, "
                f"vector vector({int(dim)}) NOT NULL, PRIMARY KEY (image, box))",
                generation,
            )
            # compressed floats are no smaller, and a vector in the row itself is read without a detour
            self._run(cursor, "ALTER TABLE {rows} ALTER COLUMN vector SET STORAGE PLAIN" if dim <= 1900 else
                      "ALTER TABLE {rows} ALTER COLUMN vector SET STORAGE EXTERNAL", generation)  # fmt: skip
            self._run(cursor, "CREATE INDEX IF NOT EXISTS {numbers} ON {rows} (number) WHERE box <= 0", generation)
            self._run(
                cursor,
                "CREATE TABLE IF NOT EXISTS {fields} (key text, type text, PRIMARY KEY (key, type))",
                generation,
            )

        self._done(make)

    def drop(self, generation: int) -> None:
        """As :meth:`Store.drop`."""

        def remove(cursor: Cursor[Any]) -> None:
            self._begin(cursor)
            for table in ("{rows}", "{fields}"):
                self._run(cursor, f"DROP TABLE IF EXISTS {table}", generation)
            self._end(cursor, generation)

        self._done(remove)

    def fields(self, generation: int) -> dict[str, frozenset[str]]:
        """As :meth:`Store.fields`."""

        def read(cursor: Cursor[Any]) -> dict[str, frozenset[str]]:
            self._run(cursor, "SELECT key, type FROM {fields}", generation)
            types: dict[str, frozenset[str]] = {}
            for key, kind in cursor.fetchall():
                types[key] = types.get(key, frozenset()) | ({kind} if kind else frozenset())
            return types

        return self._done(read)

    def replace(self, generation: int, rows: pa.Table) -> None:
        """As :meth:`Store.replace`: one transaction."""
        columns = {name: rows[name].to_pylist() for name in COLUMNS}
        texts = columns.pop("metadata")
        stored = {text: _stored_metadata(text) for text in dict.fromkeys(texts)}
        metadata, verbatim = zip(*(stored[text] for text in texts), strict=True)
        vectors = _binary_vectors(rows)
        images = list(dict.fromkeys(columns["image"]))
        types = value_types(rows["metadata"].unique().to_pylist())
        keys = sorted((key, kind) for key, kinds in types.items() for kind in {"", *kinds})

        def write(cursor: Cursor[Any]) -> None:
            self._begin(cursor)
            self._run(cursor, "DELETE FROM {rows} WHERE image = ANY(%s)", generation, [images])
            names = ", ".join((*columns, "metadata", "verbatim", "vector"))
            copy = self._sql(f"COPY {{rows}} ({names}) FROM STDIN (FORMAT BINARY)", generation)
            with cursor.copy(copy) as target:
                target.set_types([*(_TYPES[name] for name in columns), "jsonb", "text", "bytea"])
                for row in zip(*columns.values(), metadata, verbatim, vectors, strict=True):
                    target.write_row(row)
            if keys:
                self._run(
                    cursor,
                    "INSERT INTO {fields} SELECT * FROM unnest(%s::text[], %s::text[]) ON CONFLICT DO NOTHING",
                    generation,
                    [[key for key, _ in keys], [kind for _, kind in keys]],
                )
            self._end(cursor, generation)

        self._done(write)

    def delete(self, generation: int, images: Sequence[str]) -> None:
        """As :meth:`Store.delete`: one transaction."""

        def remove(cursor: Cursor[Any]) -> None:
            self._begin(cursor)
            self._run(cursor, "DELETE FROM {rows} WHERE image = ANY(%s)", generation, [list(images)])
            self._end(cursor, generation)

        self._done(remove)

    def says(self, leaf: Node) -> bool:
        """As :meth:`Store.says`: everything."""
        return True

    def nearest(
        self, generation: int, vectors: Float32Array, count: int, where: Node | None, *, exact: bool
    ) -> list[Nearest]:
        """As :meth:`Store.nearest`."""
        fits, values = condition(where)
        # "+ 0" keeps every plan from the index, whatever was prepared or set
        order = "(vector <#> %s::vector) + 0" if exact else "vector <#> %s::vector"
        query = f"SELECT image, {order} FROM {{rows}} WHERE box >= 0 AND {fits} ORDER BY 2 LIMIT {int(count)}"

        def read(cursor: Cursor[Any]) -> list[Nearest]:
            if not exact:
                self._allow_index(cursor, count)
            found = []
            for vector in vectors:
                text = _vector(vector)
                self._run(cursor, query, generation, [text, *values])
                answer = cursor.fetchall()
                scores = np.array([-score for _, score in answer], np.float32)
                found.append(Nearest([image for image, _ in answer], scores))
            return found

        return self._done(read)

    def count(self, generation: int, where: Node | None, most: int) -> int:
        """As :meth:`Store.count`."""
        fits, values = condition(where)
        inner = f"SELECT 1 FROM {{rows}} WHERE box >= 0 AND {fits} LIMIT {int(most)}"

        def read(cursor: Cursor[Any]) -> int:
            self._run(cursor, f"SELECT count(*) FROM ({inner}) AS matching", generation, values)
            return int(_one(cursor))

        return self._done(read)

    def rows(self, generation: int, images: Sequence[str], columns: Sequence[str]) -> pa.Table:
        """As :meth:`Store.rows`."""

        def read(cursor: Cursor[Any]) -> list[tuple[Any, ...]]:
            query = f"SELECT {_selected(columns)} FROM {{rows}} WHERE image = ANY(%s)"
            self._run(cursor, query, generation, [list(images)], binary=True)
            return cursor.fetchall()

        return _table(self._done(read), columns)

    def images_of(self, generation: int, numbers: Sequence[int]) -> list[str]:
        """As :meth:`Store.images_of`, by an index of the numbers."""

        def read(cursor: Cursor[Any]) -> list[str]:
            query = "SELECT image FROM {rows} WHERE box <= 0 AND number = ANY(%s)"
            self._run(cursor, query, generation, [list(numbers)])
            return [image for (image,) in cursor.fetchall()]

        return self._done(read)

    def scan(self, generation: int, columns: Sequence[str], batch: int) -> Iterator[pa.Table]:
        """As :meth:`Store.scan`, in a transaction and on a connection of its own."""
        with (
            self._translated(),
            self._connect() as connection,
            connection.transaction(),
            connection.cursor(name="objemb_scan") as cursor,
        ):
            cursor.execute(self._sql(f"SELECT {_selected(columns)} FROM {{rows}}", generation), binary=True)
            while found := cursor.fetchmany(batch):
                yield _table(found, columns)

    def facts(self, generation: int) -> StoreFacts:
        """As :meth:`Store.facts`."""

        def read(cursor: Cursor[Any]) -> StoreFacts:
            self._run(
                cursor,
                "SELECT count(*) FILTER (WHERE box <= 0), count(*) FILTER (WHERE box >= 0) FROM {rows}",
                generation,
            )
            images, rows = cast("tuple[int, int]", cursor.fetchone())
            table = self._quoted(self._table(generation))
            cursor.execute("SELECT pg_total_relation_size(%s::regclass)", [table])
            size = int(_one(cursor))
            cursor.execute(
                "SELECT i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
                "WHERE i.indrelid = %s::regclass AND c.relname = %s",
                [table, self._index_name(generation)],
            )
            valid = bool(_one(cursor))
            cursor.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
            pgvector = _one(cursor)
            cursor.execute("SHOW server_version")
            details = {"postgresql": _one(cursor), "pgvector": pgvector, "table": self._table(generation)}
            return StoreFacts(images, rows, size, "hnsw" if valid else None, rows if valid else 0, details)

        return self._done(read)

    def build(self, generation: int) -> None:
        """As :meth:`Store.build`: an HNSW index of inner products (m 16, ef_construction 64), built concurrently."""
        name = self._index_name(generation)
        if (dim := self._dim(generation)) > MOST_INDEXED:
            raise ValueError(
                f"{self.address}: expected vectors of at most {MOST_INDEXED} numbers, as HNSW of pgvector holds, "
                f"found {dim}; search stays exact, or use a model with a whitening to fewer numbers"
            )
        with self._translated(), self._connect() as connection, connection.cursor() as cursor:
            cursor.execute(self._sql("DROP INDEX CONCURRENTLY IF EXISTS {index}", generation))
            cursor.execute(
                self._sql(f"CREATE INDEX CONCURRENTLY {name} ON {{rows}} USING hnsw (vector vector_ip_ops)", generation)
            )

        def changed(cursor: Cursor[Any]) -> None:
            self._begin(cursor)
            self._end(cursor, generation)

        self._done(changed)

    def compact(self, generation: int) -> None:
        """As :meth:`Store.compact`: VACUUM, which frees space for rows to come and repairs the index for approximate
        search; files do not shrink."""
        with self._translated(), self._connect() as connection, connection.cursor() as cursor:
            cursor.execute(self._sql("VACUUM (ANALYZE) {rows}", generation))

    def close(self) -> None:
        """As :meth:`Store.close`."""
        with self._lock:
            if self._held is not None:
                self._held.close()
                self._held = None

    def _dim(self, generation: int) -> int:
        """Length of the vectors of a generation."""

        def read(cursor: Cursor[Any]) -> int:
            cursor.execute(
                "SELECT atttypmod FROM pg_attribute WHERE attrelid = %s::regclass AND attname = 'vector'",
                [self._quoted(self._table(generation))],
            )
            return int(_one(cursor))

        return self._done(read)

    def _allow_index(self, cursor: Cursor[Any], count: int) -> None:
        """Let the index look at enough rows; it returns no more than it looks at, and of these only those that match a
        filter, unless it goes on by itself (pgvector 0.8)."""
        looked_at = min(MOST_EF_SEARCH, count + EF_SEARCH)
        cursor.execute(f"SET LOCAL hnsw.ef_search = {int(looked_at)}")
        cursor.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
        if tuple(int(part) for part in str(_one(cursor)).split(".")[:2]) >= (0, 8):
            cursor.execute("SET LOCAL hnsw.iterative_scan = strict_order")

    def _make_extension(self, cursor: Cursor[Any]) -> None:
        cursor.execute("SELECT 1 FROM pg_extension WHERE extname = 'vector'")
        if _one(cursor) is None:
            cursor.execute("CREATE EXTENSION IF NOT EXISTS vector")

    def _make_header(self, cursor: Cursor[Any]) -> None:
        cursor.execute(self._sql("CREATE TABLE IF NOT EXISTS {header} (name text PRIMARY KEY, value text NOT NULL)"))
        cursor.execute(self._sql("INSERT INTO {header} VALUES ('version', '0') ON CONFLICT DO NOTHING"))

    def _begin(self, cursor: Cursor[Any]) -> None:
        """Wait for other writers, whose transactions would otherwise mix with this one in a photo."""
        cursor.execute(self._sql("SELECT 1 FROM {header} WHERE name = 'version' FOR UPDATE"))

    def _end(self, cursor: Cursor[Any], generation: int | None) -> None:
        """Count a change of the rows of a generation, or of the header."""
        cursor.execute(
            self._sql(
                "INSERT INTO {header} AS h VALUES (%s, '1') "
                "ON CONFLICT (name) DO UPDATE SET value = (h.value::bigint + 1)::text"
            ),
            [_version_of(generation)],
        )

    def _table(self, generation: int) -> str:
        return self._name if not generation else f"{self._name}_g{generation}"

    def _index_name(self, generation: int) -> str:
        return f"{self._table(generation)}_hnsw"

    def _quoted(self, table: str) -> str:
        # the names that are possible need no quotes; a schema may
        return table if self._schema is None else '"' + self._schema.replace('"', '""') + f'".{table}'

    def _sql(self, text: str, generation: int = 0) -> Composed:
        """A statement with the names of tables filled in."""
        from psycopg import sql

        table = self._table(generation)
        names = {"rows": table, "fields": f"{table}_fields", "header": f"{self._name}_header"}
        parts = [] if self._schema is None else [self._schema]
        tables = {key: sql.Identifier(*parts, name) for key, name in names.items()}
        tables["index"] = sql.Identifier(*parts, self._index_name(generation))
        tables["numbers"] = sql.Identifier(f"{table}_numbers")
        return sql.SQL(text).format(**tables)

    def _run(
        self, cursor: Cursor[Any], text: str, generation: int, values: Sequence[object] = (), *, binary: bool = False
    ) -> None:
        cursor.execute(self._sql(text, generation), values or None, binary=binary)

    def _done(self, work: Callable[[Cursor[Any]], T]) -> T:
        """Do some work in a transaction; a connection that was lost before is made anew."""
        with self._lock, self._translated():
            connection = self._connection()
            try:
                with connection.transaction(), connection.cursor() as cursor:
                    return work(cursor)
            finally:
                if connection.closed or connection.broken:
                    self.close()

    def _connection(self) -> Connection[Any]:
        with self._lock:
            if self._held is None or self._held.closed:
                with self._translated():
                    self._held = self._connect()
            return self._held

    def _connect(self) -> Connection[Any]:
        try:
            import psycopg
        except ImportError as error:
            raise ImportError("index.stores: 'postgresql' needs psycopg: pip install 'objemb[postgres]'") from error
        # no prepared plans: one made before an index was built or dropped would stay
        return psycopg.connect(
            **{"application_name": "objemb", "connect_timeout": "10", **self._asked},
            autocommit=True,
            prepare_threshold=None,
        )

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Errors of the server as those of objemb, without what it was asked: that may hold data."""
        try:
            import psycopg
        except ImportError as error:
            raise ImportError("index.stores: 'postgresql' needs psycopg: pip install 'objemb[postgres]'") from error
        try:
            yield
        except psycopg.errors.UndefinedObject as error:
            raise StoreError(
                f"{self.address}: expected the extension pgvector, found none: {_first_line(error)}"
            ) from error
        except psycopg.Error as error:
            raise StoreError(f"{self.address}: {_first_line(error)}") from error


def _version_of(generation: int | None) -> str:
    """Name of the row of the header table that counts changes."""
    return "version" if generation is None else f"version {generation}"


def _first_line(error: Exception) -> str:
    """What the server or its client said, without statements and hints."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _one(cursor: Cursor[Any]) -> Any:
    """The only value of the answer; None if there is none."""
    row = cursor.fetchone()
    return None if row is None else row[0]


def _selected(columns: Sequence[str]) -> str:
    given = {"metadata": "coalesce(verbatim, metadata::text)", "vector": "vector_send(vector)"}
    return ", ".join(given.get(name, name) for name in columns)


def _table(found: Sequence[tuple[Any, ...]], columns: Sequence[str]) -> pa.Table:
    """An Arrow table of what was selected."""
    parts = dict(zip(columns, zip(*found, strict=True) if found else [()] * len(columns), strict=True))
    dim = 1
    vectors = np.zeros(0, np.float32)
    if found and "vector" in parts:
        # dimension and a reserved number, 16 bits each, then floats; all big-endian
        dim = (len(parts["vector"][0]) - 4) // 4
        raw = np.frombuffer(b"".join(parts["vector"]), np.uint8).reshape(-1, 4 + 4 * dim)
        vectors = np.ascontiguousarray(raw[:, 4:]).view(">f4").astype(np.float32).reshape(-1)
    schema = row_schema(dim)
    arrays = [
        pa.FixedSizeListArray.from_arrays(vectors, dim)
        if name == "vector"
        else pa.array(parts[name], schema.field(name).type)
        for name in columns
    ]
    table = pa.table(arrays, schema=pa.schema([schema.field(name) for name in columns]))
    return table


def _binary_vectors(rows: pa.Table) -> list[bytes]:
    """The vectors in the binary form of pgvector."""
    vectors = rows["vector"].combine_chunks()
    dim = vectors.type.list_size
    numbers = vectors.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
    head = np.array([dim, 0], ">u2").tobytes()
    return [head + row.tobytes() for row in numbers.astype(">f4")]


def _vector(vector: Float32Array) -> str:
    """A vector as pgvector reads it; every float32 comes back the same."""
    return "[" + ",".join(map(repr, vector.astype(np.float64).tolist())) + "]"


def _stored_metadata(text: str) -> tuple[Any, str | None]:
    """Metadata as the database compares them, and verbatim where they would come back otherwise: the database writes
    1e16 as an integer, and knows neither infinity nor NaN."""
    from psycopg.types.json import Jsonb

    values = metadata_of(text)
    if not any(isinstance(value, float) and _comes_back_changed(value) for value in values.values()):
        return Jsonb(text, dumps=str), None
    shown = ", ".join(f"{json.dumps(key)}: {_compared(value)}" for key, value in values.items())
    return Jsonb(f"{{{shown}}}", dumps=str), text


def _compared(value: Scalar) -> str:
    """A value as JSON in which infinity is the least number that no float64 reaches, and NaN is null."""
    if isinstance(value, float) and not math.isfinite(value):
        return "null" if value != value else repr(value).replace("inf", INFINITY)
    return json.dumps(value)


def _comes_back_changed(value: float) -> bool:
    return not math.isfinite(value) or (value.is_integer() and "e" in repr(value))
