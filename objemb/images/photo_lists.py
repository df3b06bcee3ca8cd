"""Files that list photos: texts with one path per line, tables, COCO files, evaluation sets.

Each reader checks the structure of its file immediately, so that a wrong column is reported before the first image is
read, and then yields :class:`ListedPhoto` objects; those that cannot be used have a ``problem``. Only the entries of
JSON files are kept in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from objemb import checks
from objemb.coco.files import file_name_of, read_json
from objemb.images.names import printable, readable
from objemb.images.tables import ROLES, Table, TableRow, open_table, scalar, text
from objemb.images.texts import open_text
from objemb.structures import Scalar

#: The keys for the file of a photo in a COCO file and in an evaluation set.
COCO_KEY, SET_KEY = "file_name", "file"


@dataclass(frozen=True)
class ListedPhoto:
    """One line of a list.

    Attributes:
        path: The path as written, absolute or relative to the folder of the list.
        id: The id of the image according to the list, or None.
        metadata: The values of the other columns.
        line: Number of the line or entry, from 1.
        problem: The reason why the line cannot be used, or an empty string.
        inside: Subfolders of the list's folder that the path may be relative to.
    """

    path: str
    id: str | None = None
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    line: int = 0
    problem: str = ""
    inside: tuple[str, ...] = ("",)


def read_list(path: Path) -> Iterator[ListedPhoto]:
    """A text with one path per line; blank lines and lines that start with ``#`` are ignored.

    If the first line contains tabs and the name of a column for paths, the file is read as a table; spreadsheets call
    this format "Unicode text".
    """
    with open_text(path) as file:
        first = next(file, "")
    if "\t" in first and not first.startswith("#") and _names_paths(first):
        return read_table(path)
    return _lines(path)


def _names_paths(line: str) -> bool:
    names = [name.strip().casefold() for name in line.split("\t")]
    return any(alias in names for alias in ROLES["path"])


def _lines(path: Path) -> Iterator[ListedPhoto]:
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            written = line.rstrip("\n")
            if written.strip() and not written.lstrip().startswith("#"):
                yield ListedPhoto(written, line=number)


def read_table(path: Path) -> Iterator[ListedPhoto]:
    """CSV with a header, or Parquet, with a column for paths and optionally one for ids.

    See :data:`objemb.images.tables.ROLES` for their names. Other columns that have a name become metadata.

    Raises:
        ValueError: See :func:`objemb.images.tables.open_table`.
    """
    table = open_table(path)
    return _table_entries(table, table.need("path"), table.column("id"), table.converters())


def _table_entries(
    table: Table, path: int, id: int | None, converters: list[Callable[[object], Scalar]]
) -> Iterator[ListedPhoto]:
    columns = [(n, name) for n, name in enumerate(table.columns) if name and n not in (path, id)]

    def entry(row: TableRow) -> ListedPhoto:
        if row.problem:
            return ListedPhoto("", line=row.line, problem=row.problem)
        written = row.cells[path]
        if not isinstance(written, str) or not written.strip():
            return ListedPhoto("", line=row.line, problem="expected a path, found none")
        metadata = {name: converters[n](row.cells[n]) for n, name in columns}
        return ListedPhoto(written, None if id is None else text(row.cells[id]) or None, metadata, row.line)

    return (entry(row) for row in table.rows())


def read_photos_of_json(path: Path) -> Iterator[ListedPhoto]:
    """The ``images`` of a COCO file, or the ``images`` and ``queries`` of an evaluation set, each photo once.

    The file of a photo, which is also its id, is the ``file_name`` of an entry in a COCO file, and its ``file`` in an
    evaluation set (see :mod:`objemb.datasets.evaluation_set`). Other scalar values become metadata.

    Raises:
        ValueError: The file is not JSON, or has no list ``images``.
    """
    content = read_json(path)
    images = content.get("images") if isinstance(content, Mapping) else None
    if not isinstance(images, list):
        found = checks.listed(list(content)[:10]) if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f"{path}: expected a COCO file or an evaluation set with a list 'images', found {found}")
    if any(file_name_of(image, SET_KEY) for image in images) and not any(map(file_name_of, images)):
        queries = content.get("queries")
        return _photos_of_set([*images, *(queries if isinstance(queries, list) else ())])
    return (_photo_of(entry, number, COCO_KEY, ("", "images")) for number, entry in enumerate(images, 1))


def _photos_of_set(entries: Sequence[object]) -> Iterator[ListedPhoto]:
    """The photos of an evaluation set; a photo in several entries is yielded for the first one only."""
    named: set[str] = set()
    for number, entry in enumerate(entries, 1):
        photo = _photo_of(entry, number, SET_KEY, ("",))
        if photo.problem or photo.path not in named:
            named.add(photo.path)
            yield photo


def _photo_of(entry: Any, number: int, key: str, inside: tuple[str, ...]) -> ListedPhoto:
    name = file_name_of(entry, key)
    if name is None:
        return ListedPhoto("", line=number, problem=f"expected an image with a {key!r}, found none")
    values = {k: v for k, v in entry.items() if k != key and isinstance(v, Scalar)}
    metadata = {printable(k): readable(v) if isinstance(v, str) else scalar(v) for k, v in values.items()}
    return ListedPhoto(name, name, metadata, number, inside=inside)


#: The readers, by the suffix of the file's name.
READERS: Mapping[str, Callable[[Path], Iterator[ListedPhoto]]] = {
    ".txt": read_list,
    ".csv": read_table,
    ".tsv": read_table,
    ".parquet": read_table,
    ".json": read_photos_of_json,
}
