"""Tables of ground truth: CSV files with a header."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from objemb import checks
from objemb.datasets.benchmarks._problems import BadGroundTruthError, Problems
from objemb.images.tables import Table, open_table, text


def read_table(problems: Problems, file: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a table, each with a name for messages: ``("train.csv line 7", {"id": "...", ...})``.

    A row with more or fewer cells than the header becomes a problem. Columns that were not requested are left out.

    Raises:
        BadGroundTruthError: A column is missing.
    """
    table = _opened(file, columns)
    places = {name: table.need(name) for name in columns}
    for row in table.rows():
        entry = f"{file.name} line {row.line}"
        if row.problem:
            problems.add(entry, row.problem)
        else:
            yield entry, {name: text(row.cells[place]) for name, place in places.items()}


def _opened(file: Path, columns: Sequence[str]) -> Table:
    try:
        return open_table(file, columns)
    except ValueError as error:
        raise BadGroundTruthError(f"{error}; expected the columns {checks.listed(columns)}") from error
