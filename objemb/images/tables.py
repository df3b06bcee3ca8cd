"""Tables of images: CSV and Parquet, in the dialects of the programs that write them.

In all tables that objemb reads, a row describes a photo, and a column may have any of several names, see
:data:`ROLES`.
"""

from __future__ import annotations

import csv
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from objemb import checks
from objemb.images.names import readable
from objemb.images.texts import open_text
from objemb.structures import Scalar

logger = logging.getLogger(__name__)

#: Roles of columns, and the names that a column of each role may have, in upper or lower case; the first one present
#: counts.
ROLES: dict[str, tuple[str, ...]] = {
    "path": ("path", "file", "image", "file_name", "filename"),
    "id": ("id",),
    "instance": ("instance", "label"),
}
#: Separators of columns: Excel writes semicolons where numbers have a decimal comma.
DELIMITERS = (",", ";", "\t", "|")
#: With this separator, numbers have a decimal comma.
CONTINENTAL = ";"
INTEGER = re.compile(
    r"-?(0|[1-9]\d{0,17})", re.ASCII
)  # no leading zeros: those belong to article numbers; fits 64 bits
NUMBER = re.compile(r"-?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
#: Longer texts are not read as numbers.
LONGEST_NUMBER = 64
#: How missing numbers are written, in lower case. Infinities count as missing, as in Parquet.
MISSING = frozenset(
    ("", "nan", "-nan", "na", "n/a", "#n/a", "<na>", "null", "none", "inf", "-inf", "+inf", "infinity", "-infinity")
)
#: Number of rows of a Parquet file that are in memory at a time.
PARQUET_ROWS = 4096


@dataclass(frozen=True)
class TableRow:
    """A row of a table.

    Attributes:
        line: Number of the line in a CSV file, or of the row in a Parquet file, from 1.
        cells: One per column: texts as written in CSV, or values of Parquet. Empty if there is a problem.
        problem: The reason why the row cannot be read, or an empty string.
    """

    line: int
    cells: Sequence[Any] = ()
    problem: str = ""


@dataclass(frozen=True)
class Table:
    """A table whose header was read.

    Attributes:
        path: The file.
        columns: Names of the columns, without surrounding blanks; those of unnamed columns are empty.
        rows: Function that iterates over all rows that are not blank, each time from the start.
        decimal_comma: Whether numbers are written as ``3,5``.
        typed: Whether cells already have types.
    """

    path: Path
    columns: tuple[str, ...]
    rows: Callable[[], Iterator[TableRow]]
    decimal_comma: bool = False
    typed: bool = False

    def column(self, role: str) -> int | None:
        """The number of the column for one of :data:`ROLES`, or with exactly this name; None if there is none."""
        return _column(self.columns, role)

    def need(self, role: str) -> int:
        """As :meth:`column`, but raises ``ValueError`` if there is none."""
        number = self.column(role)
        if number is None:
            others = checks.listed(ROLES.get(role, ())[1:])
            wanted = f"{role!r} (or {others})" if others else repr(role)
            named = [name for name in self.columns if name]
            hint = checks.nearest(role, named)
            raise ValueError(f"{self.path}: expected a column {wanted}, found {checks.listed(named) or 'none'}{hint}")
        return number

    def number(self, text: str) -> float:
        """The number in a cell. Raises ``ValueError`` if the cell is not a number."""
        return float(_with_point(text) if self.decimal_comma else text)

    def converters(self) -> list[Callable[[Any], Scalar]]:
        """A function for each column that converts its cells to metadata.

        A column of CSV gets the type that fits all its cells: ``int``, ``float`` or text. This needs a pass over the
        file. Words such as ``NaN`` and ``NA`` are missing values in columns of numbers, and texts in columns of texts
        (where NA may be Namibia).
        """
        if self.typed:
            return [scalar] * len(self.columns)
        kinds = [_Kind(self.decimal_comma) for _ in self.columns]
        for row in self.rows():
            for kind, cell in zip(kinds, row.cells, strict=False):
                kind.add(cell)
        return [kind.converter() for kind in kinds]


def open_table(path: Path, needed: Sequence[str] = ("path",)) -> Table:
    """Read the header of a table: Parquet if its name has that suffix, else CSV.

    The encoding of CSV (UTF-8, UTF-16 or Windows-1252) and its separator (comma, semicolon, tab, ``|``, or the one in a
    first line ``sep=``) are detected. The separator is the first one that yields the needed columns.

    Args:
        path: The file.
        needed: Roles for which there must be a column.

    Raises:
        ValueError: A needed column is missing, two columns have the same name, or the file is not a table.
    """
    table = _open_parquet(path) if path.suffix.lower() == ".parquet" else _open_csv(path, needed)
    twice = [name for name, count in Counter(table.columns).items() if count > 1 and name]
    if twice:
        raise ValueError(f"{path}: expected each column once, found twice: {checks.listed(twice)}")
    for role in needed:
        table.need(role)
    return table


def text(cell: object) -> str:
    """A cell as text, empty for missing values. Whole floats are written without ``.0``: in Parquet files, a column of
    integers with missing values has often become one of floats."""
    if isinstance(cell, str):
        return readable(cell.strip())
    if cell is None or (isinstance(cell, float) and not math.isfinite(cell)):
        return ""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else readable(str(cell))


def scalar(cell: object) -> Scalar:
    """A value of Parquet or JSON as metadata; floats that are not finite become None."""
    if isinstance(cell, float) and not math.isfinite(cell):
        return None
    if cell is None or isinstance(cell, bool | int | float):
        return cell
    return readable(str(cell))


def _column(columns: Sequence[str], role: str) -> int | None:
    for name in ROLES.get(role, (role,)):
        if name in columns:
            return columns.index(name)
        for number, column in enumerate(columns):
            if column.casefold() == name.casefold():
                return number
    return None


# --- CSV ---


def _open_csv(path: Path, needed: Sequence[str]) -> Table:
    tables: list[Table] = []
    for delimiter in DELIMITERS:
        table = _csv_table(path, delimiter, 0)
        if len(table.columns) == 1 and re.fullmatch("sep=.", table.columns[0]):
            return _csv_table(path, table.columns[0][-1], 1)
        if all(table.column(role) is not None for role in needed):
            return table
        tables.append(table)
    return max(tables, key=lambda table: len(table.columns))  # the first of several: a comma, if nothing else


def _csv_table(path: Path, delimiter: str, first: int) -> Table:
    """The table whose header is the non-blank record number ``first``."""
    records = _records(path, delimiter)
    header = [row for _, row in zip(range(first + 1), (row for _, row in records), strict=False)]
    names = tuple(readable(name.strip()) for name in header[-1]) if len(header) > first else ()

    def rows() -> Iterator[TableRow]:
        records = _records(path, delimiter)
        for _ in range(first + 1):
            next(records, None)
        for line, cells in records:
            extra = cells[len(names) :]
            if len(cells) >= len(names) and not any(extra):
                yield TableRow(line, cells[: len(names)])
            else:
                yield TableRow(line, problem=f"expected {len(names)} columns, found {len(cells)}")

    return Table(path, names, rows, decimal_comma=delimiter == CONTINENTAL)


def _records(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of all records that are not blank; blank ones may consist of separators."""
    with open_text(path, newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
        try:
            for cells in reader:
                if any(map(str.strip, cells)):
                    yield reader.line_num, cells
        except csv.Error as error:
            raise ValueError(f"{path}: expected CSV, found in line {reader.line_num}: {error}") from error


class _Kind:
    """The type that fits all cells of a column so far."""

    def __init__(self, decimal_comma: bool) -> None:
        self._whole = self._numeric = True
        self._numbers = 0
        self._clean = _with_point if decimal_comma else str.strip

    def add(self, cell: str) -> None:
        """Take another cell into account."""
        if not self._numeric or cell.strip().lower() in MISSING:
            return
        number = self._clean(cell)
        self._numbers += 1
        self._whole = self._whole and len(number) <= LONGEST_NUMBER and INTEGER.fullmatch(number) is not None
        self._numeric = self._whole or _is_number(number)

    def converter(self) -> Callable[[str], Scalar]:
        """The function that converts a cell to metadata."""
        if not self._numbers or not self._numeric:
            return lambda cell: readable(cell.strip()) or None
        to, clean = (int if self._whole else float), self._clean
        return lambda cell: None if cell.strip().lower() in MISSING else to(clean(cell))


def _is_number(cell: str) -> bool:
    """Whether a cell is a number rather than an article number with leading zeros or too many digits."""
    if len(cell) > LONGEST_NUMBER:
        return False
    if cell.lstrip("-").isdigit():
        return INTEGER.fullmatch(cell) is not None
    return NUMBER.fullmatch(cell) is not None and math.isfinite(float(cell))


def _with_point(cell: str) -> str:
    """Replace the decimal comma of a number by a point; texts with several commas, or with a point, stay unchanged."""
    cell = cell.strip()
    return cell.replace(",", ".") if cell.count(",") == 1 and "." not in cell else cell


# --- Parquet ---


def _open_parquet(path: Path) -> Table:
    """A Parquet file; columns whose values are not scalars (lists, bytes) are left out, with a warning."""
    import pyarrow as pa  # takes a fifth of a second
    import pyarrow.parquet as pq

    from objemb.images.arrow import is_single

    try:
        table = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: expected a Parquet file, found: {error}") from error
    kept = [f.name for f in table.schema_arrow if is_single(f.type)]
    if left_out := [f.name for f in table.schema_arrow if not is_single(f.type)]:
        logger.warning("%s: columns %s hold no single values and are left out", path, checks.listed(left_out))

    def rows() -> Iterator[TableRow]:
        from objemb.images.arrow import values

        try:
            line = 0
            for batch in table.iter_batches(batch_size=PARQUET_ROWS, columns=kept):
                for line, cells in enumerate(zip(*map(values, batch.columns), strict=True), line + 1):  # noqa: B020
                    yield TableRow(line, cells)
        except (ValueError, OSError) as error:  # pyarrow's errors are subclasses
            raise ValueError(f"{path}: expected a Parquet file that can be read to its end, found: {error}") from error

    return Table(path, tuple(kept), rows, typed=True)
