"""Your own photos, in a subfolder for each instance or listed in a table."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from objemb import checks
from objemb.datasets.benchmarks._problems import BadGroundTruthError, Problems
from objemb.datasets.benchmarks.base import Benchmark
from objemb.images.names import find_spelled
from objemb.images.sources import SkippedImage, find_images
from objemb.images.tables import Table, TableRow, open_table, text
from objemb.registry import plugin
from objemb.structures import Box

#: Subfolders for queries and for the database.
DATABASE, QUERY = "database", "query"
#: Roles of a row in a table; an empty cell stands for both.
ROLES = {DATABASE: (True, False), QUERY: (False, True), "": (True, True)}
COLUMNS, BOX_COLUMNS, ROLE = ("path", "instance"), ("x1", "y1", "x2", "y2"), "role"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Row:
    file: str
    instance: str
    box: Box | None
    searched: bool
    asked: bool


@plugin
class FolderBenchmark(Benchmark):
    """Your own photos; each is a query for the other photos of its instance.

    Args:
        table: A CSV or Parquet file with the columns ``path`` (relative to the file; also ``file`` or ``image``) and
            ``instance`` (or ``label``), and perhaps ``x1``, ``y1``, ``x2``, ``y2`` (a box in pixels) and ``role``
            (``query``, ``database``, or empty for both); by default ``instances.csv`` where the folder has one, else
            the sub-folders say what is what.
    """

    layout = """\
Expected below the folder either
  INSTANCE/*.jpg       a sub-folder for each instance; every photo searches for the others of its sub-folder
or
  database/INSTANCE/*.jpg
  query/INSTANCE/*.jpg likewise, where what is searched for is apart from what is searched
or
  instances.csv        with the columns path, instance, and perhaps x1, y1, x2, y2, role (query, database or empty)
Photos in none of the sub-folders show nothing that is searched for."""

    def __init__(self, *, table: str = "") -> None:
        self.table = table

    def missing(self, root: Path) -> list[str]:
        """The table, if one is given, else images in subfolders."""
        if self.table:
            return [] if Path(self.table).is_file() else [f"{self.table}: no such file"]
        if self._table(root) is None and not any(row.instance for row in _from_folders(root)):
            return ["instances.csv, or images in sub-folders: none there"]
        return []

    def convert(self, root: Path) -> dict[str, object]:
        """The evaluation set."""
        table = self._table(root)
        rows = list(_from_folders(root)) if table is None else _from_table(table, root)
        images: dict[str, dict[str, None]] = {}
        for row in rows:
            if row.searched:
                images.setdefault(row.file, {}).update({row.instance: None} if row.instance else {})
        self._check(table or root, rows, images)
        return {
            "images": [{"file": file, "instances": list(instances)} for file, instances in images.items()],
            "objects": [_entry(r) for r in rows if r.searched and r.box and r.instance],
            "queries": [_entry(r) for r in rows if r.asked],
        }

    def _table(self, root: Path) -> Path | None:
        path = Path(self.table) if self.table else root / "instances.csv"
        return path if path.is_file() else None

    @staticmethod
    def _check(source: Path, rows: list[_Row], images: dict[str, dict[str, None]]) -> None:
        """Check that there are queries, and that the instance of each is in a photo of the database."""
        shown = {instance for instances in images.values() for instance in instances}
        with Problems(source) as problems:
            for instance in dict.fromkeys(row.instance for row in rows if row.asked):
                if instance not in shown:
                    problems.add(instance, "expected a photo of this instance in the database, found none")
            if not any(row.asked for row in rows):
                problems.add("queries", "expected at least one, found none")
            if len(shown) == 1:
                problems.add(next(iter(shown)), "expected at least two instances to tell apart, found this one")


def _entry(row: _Row) -> dict[str, object]:
    return {"file": row.file, "instance": row.instance, "box": row.box}


def _from_folders(root: Path) -> Iterator[_Row]:
    apart = (root / DATABASE).is_dir() and (root / QUERY).is_dir()
    for image in find_images(root):
        if isinstance(image, SkippedImage):
            continue
        parents = PurePosixPath(image.id).parts[:-1]
        role, *folders = parents if apart and parents else ("", *parents)
        instance = folders[0] if folders else ""
        searched, asked = ROLES.get(role, (False, False))
        if searched or (asked and instance):
            yield _Row(image.id, instance, None, searched, asked and bool(instance))


def _from_table(table: Path, root: Path) -> list[_Row]:
    with Problems(table) as problems:
        read = _TableReader(_opened(table), root, problems)
        rows = [read.row(row) for row in read.table.rows()]
    return list(dict.fromkeys(row for row in rows if row is not None))


def _opened(file: Path) -> Table:
    """The table, if its columns are known: a misspelt one would silently change what is measured."""
    try:
        table = open_table(file, COLUMNS)
    except ValueError as error:
        raise BadGroundTruthError(f"{error}; {_wanted()}") from error
    boxed = [name for name in BOX_COLUMNS if table.column(name) is not None]
    used = {table.column(name) for name in (*COLUMNS, *BOX_COLUMNS, ROLE, "id")}
    odd = [name for number, name in enumerate(table.columns) if name and number not in used]
    misspelt = [name for name in odd if difflib.get_close_matches(name.lower(), (*BOX_COLUMNS, ROLE), cutoff=0.7)]
    if misspelt or len(boxed) not in (0, len(BOX_COLUMNS)):
        raise BadGroundTruthError(f"{file}: {_wanted()}, found {checks.listed(table.columns)}")
    if odd:
        log.warning("%s: columns %s are not used", file, checks.listed(odd))
    return table


def _wanted() -> str:
    return "expected the columns path and instance, and perhaps x1, y1, x2, y2 and role"


class _TableReader:
    def __init__(self, table: Table, root: Path, problems: Problems) -> None:
        self.table, self.root, self.problems = table, root, problems
        self._columns = {name: table.column(name) for name in (*COLUMNS, *BOX_COLUMNS, ROLE)}

    def row(self, row: TableRow) -> _Row | None:
        entry = f"line {row.line}"
        if row.problem:
            self.problems.add(entry, row.problem)
            return None
        cells = {name: "" if number is None else text(row.cells[number]) for name, number in self._columns.items()}
        image, instance, role = cells["path"], cells["instance"], cells[ROLE]
        folder = self.table.path.parent
        path = folder / find_spelled(folder, str(row.cells[self.table.need("path")] or ""))[0]
        if not image or not path.is_file():
            self.problems.add(entry, f"expected an image, found none at {image!r}")
            return None
        if role not in ROLES:
            self.problems.add(entry, f"expected the role query, database, or an empty cell, found {role!r}")
            return None
        searched, asked = ROLES[role]
        if not instance and role == QUERY:
            self.problems.add(entry, "expected the instance that is searched for, found an empty cell")
            return None
        box = self._box(entry, [cells[name] for name in BOX_COLUMNS], path)
        return _Row(_relative(path, self.root), instance, box, searched, asked and bool(instance))

    def _box(self, entry: str, cells: list[str], photo: Path) -> Box | None:
        if not any(cells):
            return None
        try:
            numbers = [self.table.number(cell) for cell in cells]
        except ValueError:
            self.problems.add(entry, f"expected a box as four numbers x1 y1 x2 y2, found {cells}")
            return None
        return self.problems.box(entry, numbers, photo)


def _relative(path: Path, root: Path) -> str:
    """A path as written in evaluation sets in ``root``: relative, with ``/``."""
    return Path(os.path.relpath(path, root)).as_posix()
