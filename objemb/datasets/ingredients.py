"""Ingredients of compositions: pictures of products with their instance names, and background photos."""

from __future__ import annotations

import fnmatch
import json
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from objemb import checks
from objemb.datasets.seeds import generator
from objemb.images import ImageRef, SkippedImage, UnreadableImageError, find_images
from objemb.images.names import find_spelled
from objemb.images.tables import ROLES, open_table, text

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourcePicture:
    """A picture that can be read.

    Attributes:
        id: Its unique name among the pictures of its kind.
        path: Its path.
        instance: The instance that it shows; empty for photos.
    """

    id: str
    path: str
    instance: str = ""


@dataclass(frozen=True)
class Pictures:
    """Pictures that can be read, and those that cannot."""

    usable: tuple[SourcePicture, ...] = ()
    skipped: tuple[SkippedImage, ...] = field(default=())


def find_pictures(
    sources: Sequence[str | Path], read: Callable[[Path], object], name: Callable[[ImageRef], str | None]
) -> Pictures:
    """All pictures of some sources that can be read; each is tried once.

    Args:
        sources: Folders, lists and images, as :func:`objemb.images.find_images` takes them.
        read: Raises ``UnreadableImageError`` for a picture that cannot be used.
        name: The instance of a picture, or None to leave it out.
    """
    usable, skipped = [], []
    for ref in find_images(sources):
        if isinstance(ref, SkippedImage):
            skipped.append(ref)
            continue
        instance = name(ref)
        try:
            if instance is None:
                raise UnreadableImageError("it has no instance name")
            read(ref.path)
            usable.append(SourcePicture(ref.id, str(ref.path), instance))
        except UnreadableImageError as error:
            skipped.append(SkippedImage(ref.id, str(ref.path), error.reason))
    return Pictures(tuple(usable), tuple(skipped))


def instance_names(names: str | Path | None) -> Callable[[ImageRef], str | None]:
    """A function that gives the instance name of a picture.

    Without a file, it is the column ``instance`` (or ``label``) of the list that named the picture, otherwise its
    sub-folder, otherwise its name without suffix. With a file, it is the name in the file, and None for other pictures.

    Args:
        names: A table (CSV or Parquet) with the columns ``path`` and ``instance``, under any of their names, see
            :data:`objemb.images.tables.ROLES`; or a JSON file: ``{path: instance}``, or an evaluation set (its images
            and queries). Paths are relative to it, or ids of pictures. Rows that cannot be read are left out, logged.

    Raises:
        ValueError: The file is missing or of another kind.
    """
    if names is None:
        return _own_name
    table = _read_names(Path(names))
    by_path = {_real_path(Path(names).parent, file): instance for file, instance in table.items()}
    return lambda ref: by_path.get(os.path.realpath(ref.path), table.get(ref.id))


def _real_path(folder: Path, file: str) -> str:
    path = folder / find_spelled(folder, file)[0]
    try:
        return os.path.realpath(path)
    except ValueError:  # no file system can hold it, and no picture has it
        return str(path)


def _own_name(ref: ImageRef) -> str:
    for column in ROLES["instance"]:
        if name := text(ref.metadata.get(column)):
            return name
    parts = PurePosixPath(ref.id)
    return parts.parent.as_posix() if len(parts.parts) > 1 and not parts.is_absolute() else parts.stem


def _read_names(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise ValueError(f"{path}: expected a table or a JSON file of instance names, found no such file")
    try:
        return _json_names(path) if path.suffix.lower() == ".json" else _table_names(path)
    except (KeyError, TypeError, AttributeError, RecursionError, json.JSONDecodeError, UnicodeDecodeError) as error:
        wanted = "JSON {path: instance} or of an evaluation set"
        raise ValueError(f"{path}: expected {wanted}, found: {type(error).__name__}: {error}") from error


def _table_names(path: Path) -> dict[str, str]:
    table = open_table(path, ("path", "instance"))
    pictures, instances = table.need("path"), table.need("instance")
    names = {}
    for row in table.rows():
        if row.problem:
            log.warning("%s line %d: left out: %s", path, row.line, row.problem)
        elif instance := text(row.cells[instances]):
            names[str(row.cells[pictures] or "").strip()] = instance
    return names


def _json_names(path: Path) -> dict[str, str]:
    data: Any = json.loads(path.read_bytes())
    if isinstance(data.get("images"), list):
        rows = [*data["images"], *data.get("queries", [])]
        return {str(row["file"]): text(row["instance"]) for row in rows}
    return {file: text(instance) for file, instance in data.items()}


def split_names(names: Iterable[str], share: float, held_out: Sequence[str], seed: int) -> tuple[list[str], list[str]]:
    """Names for training and names that are held out, both sorted.

    Args:
        names: All names.
        share: Share to hold out at random; with at least two names, both sides have at least one.
        held_out: Patterns such as ``tea*`` of names to hold out, instead of a share.
        seed: Seed of the random choice.

    Raises:
        ValueError: A pattern matches no name, or no name is left for training.
    """
    known = sorted(set(names))
    if held_out:
        for pattern in held_out:
            if not fnmatch.filter(known, pattern):
                raise ValueError(f"held_out: expected patterns of {checks.listed(known[:20])}, found {pattern!r}")
        chosen = {n for n in known if any(fnmatch.fnmatchcase(n, p) for p in held_out)}
    else:
        count = min(max(round(share * len(known)), 1 if share > 0 else 0), max(0, len(known) - 1))
        order = generator("held out", seed).permutation(len(known))
        chosen = {known[n] for n in order[:count]}
    if known and len(chosen) == len(known):
        raise ValueError("held_out: expected at least one name to be left for training, found none")
    return [n for n in known if n not in chosen], [n for n in known if n in chosen]
