"""Files that list images: one path a line, a table with a ``path`` column, COCO.

Each reader checks its file at once (a wrong column is told before the first image is read), keeps nothing in memory
but COCO's image list, and gives :class:`Entry` objects. A line that cannot be used is an entry with a ``problem``.
"""

from __future__ import annotations

import csv
import datetime
import decimal
import json
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from objemb import checks
from objemb.images.names import printable
from objemb.structures import Scalar

logger = logging.getLogger(__name__)

#: The column that holds the image, and the one that may name it.
PATH_COLUMN, ID_COLUMN = "path", "id"
#: Rows of a Parquet file that are in memory at once.
PARQUET_ROWS = 4096
INTEGER = re.compile(
    r"-?(0|[1-9]\d{0,17})", re.ASCII
)  # no leading zeros: those belong to article numbers; fits 64 bits
NUMBER = re.compile(r"-?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class Entry:
    """One line of a list.

    Attributes:
        path: As written, relative to the folder of the list or absolute.
        id: The id that the list gives the image, or None.
        metadata: The other columns.
        line: Number of the line or entry, from 1.
        problem: Why the line names no image, or an empty string.
    """

    path: str
    id: str | None = None
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    line: int = 0
    problem: str = ""


def read_list(path: Path) -> Iterator[Entry]:
    """One path a line; blank lines and lines that start with ``#`` are left out."""
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            text = line.strip()
            if text and not text.startswith("#"):
                yield Entry(text, line=number)


def read_csv(path: Path) -> Iterator[Entry]:
    """A table with a header. A column of integers or numbers becomes ``int`` or ``float``, an empty cell None.

    Raises:
        ValueError: When the header has no ``path`` column or one name twice, or the file is no CSV.
    """
    header, converters = _csv_columns(path)
    return _csv_entries(path, header, converters)


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of all lines that are not blank."""
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file)
        try:
            for row in reader:
                if row:
                    yield reader.line_num, row
        except csv.Error as error:
            raise ValueError(f"{path}: expected CSV, found in line {reader.line_num}: {error}") from error


def _csv_columns(path: Path) -> tuple[list[str], list[Callable[[str], Scalar]]]:
    """The header, and for each column the type that all its cells have in common."""
    rows = _csv_rows(path)
    header = [name.strip() for name in next(rows, (0, []))[1]]
    _expect_columns(path, header)
    whole, numeric = [True] * len(header), [True] * len(header)
    for _, row in rows:
        for column, cell in enumerate(row[: len(header)]):
            if cell := cell.strip():
                whole[column] = whole[column] and INTEGER.fullmatch(cell) is not None
                numeric[column] = numeric[column] and _is_number(cell)
    return header, [int if w else float if n else printable for w, n in zip(whole, numeric, strict=True)]


def _is_number(cell: str) -> bool:
    """Whether a cell is a number and not an article number, whose leading zeros or many digits matter."""
    if cell.lstrip("-").isdigit():
        return INTEGER.fullmatch(cell) is not None
    return NUMBER.fullmatch(cell) is not None and math.isfinite(float(cell))


def _csv_entries(path: Path, header: list[str], converters: list[Callable[[str], Scalar]]) -> Iterator[Entry]:
    rows = _csv_rows(path)
    next(rows)
    for number, row in rows:
        if len(row) != len(header):
            yield Entry("", line=number, problem=f"expected {len(header)} columns, found {len(row)}")
            continue
        cells = {name: cell.strip() for name, cell in zip(header, row, strict=True)}
        values = {
            name: convert(cells[name]) if cells[name] else None
            for name, convert in zip(header, converters, strict=True)
            if name not in (PATH_COLUMN, ID_COLUMN)
        }
        yield _table_entry(number, cells[PATH_COLUMN], cells.get(ID_COLUMN), values)


def read_parquet(path: Path) -> Iterator[Entry]:
    """A table; dates become ISO 8601 texts. Columns that hold no single values (lists, bytes) are left out, logged.

    Raises:
        ValueError: When there is no ``path`` column of texts, a name is there twice, or the file is no Parquet.
    """
    import pyarrow as pa  # here: a fifth of a second that only tables need to spend
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: expected a Parquet file, found: {error}") from error
    names = table.schema_arrow.names
    _expect_columns(path, names)
    kept = [f.name for f in table.schema_arrow if not _is_nested(f.type)]
    if left_out := [n for n in names if n not in kept]:
        logger.warning("%s: columns %s hold no single values and are left out", path, checks.listed(left_out))
    _expect_columns(path, kept)
    return _parquet_entries(path, table, kept)


def _is_nested(kind: Any) -> bool:
    import pyarrow.types as types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return (
        types.is_nested(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
    )


def _parquet_entries(path: Path, table: Any, columns: list[str]) -> Iterator[Entry]:
    for number, row in enumerate(_parquet_rows(path, table, columns), 1):
        image, id = row.pop(PATH_COLUMN), row.pop(ID_COLUMN, None)
        yield _table_entry(number, image, id, {name: _scalar(value) for name, value in row.items()})


def _parquet_rows(path: Path, table: Any, columns: list[str]) -> Iterator[dict[str, Any]]:
    batches = table.iter_batches(batch_size=PARQUET_ROWS, columns=columns)
    try:
        for batch in batches:
            yield from batch.to_pylist()
    except (ValueError, OSError) as error:  # the errors of pyarrow are kinds of these
        raise ValueError(f"{path}: expected a Parquet file that can be read to its end, found: {error}") from error


def _scalar(value: Any) -> Scalar:
    """A cell of a Parquet table as metadata; NaN is a missing value."""
    if isinstance(value, decimal.Decimal):
        value = float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    return printable(str(value))


def read_coco(path: Path) -> Iterator[Entry]:
    """The ``images`` of a COCO file; ``file_name`` is the id, the other single values are metadata.

    Raises:
        ValueError: When the file is no JSON, or has no list ``images``.
    """
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected COCO JSON, found: {error}") from error
    images = data.get("images") if isinstance(data, dict) else None
    if not isinstance(images, list):
        found = checks.listed(data) if isinstance(data, dict) else type(data).__name__
        raise ValueError(f"{path}: expected COCO JSON with a list 'images', found {found}")
    return (_coco_entry(path.parent, number, image) for number, image in enumerate(images, 1))


def _coco_entry(folder: Path, number: int, image: Any) -> Entry:
    name = image.get("file_name") if isinstance(image, dict) else None
    if not isinstance(name, str) or not name:
        return Entry("", line=number, problem="expected an image with a 'file_name', found none")
    values = {k: v for k, v in image.items() if k != "file_name" and isinstance(v, Scalar)}
    metadata = {printable(k): printable(v) if isinstance(v, str) else _scalar(v) for k, v in values.items()}
    beside = os.path.join("images", name)
    moved = not os.path.exists(folder / name) and os.path.exists(folder / beside)
    return Entry(beside if moved else name, name, metadata, number)


def _expect_columns(path: Path, columns: Sequence[str]) -> None:
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice:
        raise ValueError(f"{path}: expected each column once, found twice: {checks.listed(twice)}")
    if PATH_COLUMN not in columns:
        hint = checks.nearest(PATH_COLUMN, columns)
        raise ValueError(f"{path}: expected a column {PATH_COLUMN!r}, found {checks.listed(columns) or 'none'}{hint}")


def _table_entry(number: int, path: Any, id: Any, values: Mapping[str, Scalar]) -> Entry:
    metadata = {printable(name): value for name, value in values.items()}
    if not isinstance(path, str) or not path:
        return Entry("", line=number, problem="expected a path, found none")
    return Entry(path, None if id in (None, "") else str(id), metadata, number)


#: Reader of each kind of list, by the suffix of its name.
READERS: Mapping[str, Callable[[Path], Iterator[Entry]]] = {
    ".txt": read_list,
    ".csv": read_csv,
    ".parquet": read_parquet,
    ".json": read_coco,
}
