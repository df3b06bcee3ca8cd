"""Tables of ground truth: CSV files with a header."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from objemb import checks
from objemb.datasets.benchmarks._problems import BadGroundTruthError, Problems


def read_table(problems: Problems, file: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a table with their line, such as ``("train.csv line 7", {"id": "...", ...})``.

    A row with more or fewer cells than the header becomes a problem. Columns that nobody asked for are left out.

    Raises:
        BadGroundTruthError: A column is missing.
    """
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        reader = csv.DictReader(stream)
        absent = [name for name in columns if name not in (reader.fieldnames or ())]
        if absent:
            found = checks.listed(reader.fieldnames or ()) or "none"
            raise BadGroundTruthError(f"{file}: expected the columns {checks.listed(columns)}, found {found}")
        for cells in reader:
            entry = f"{file.name} line {reader.line_num}"
            if None in cells or None in cells.values():
                problems.add(entry, f"expected as many cells as the header has, found {list(cells.values())}")
            else:
                yield entry, {name: cells[name].strip() for name in columns}
