"""What is composed: pictures of products with their instance names, and photos to lay them on."""

from __future__ import annotations

import csv
import fnmatch
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from objemb import checks
from objemb.datasets.seeds import generator
from objemb.images import ImageRef, SkippedImage, UnreadableImageError, find_images

#: Metadata of a list of pictures that gives the instance.
INSTANCE = "instance"


@dataclass(frozen=True)
class Picture:
    """A picture that can be read.

    Attributes:
        id: Its name among all pictures of its kind.
        path: Where it is.
        instance: What it shows; empty for photos.
    """

    id: str
    path: str
    instance: str = ""


@dataclass(frozen=True)
class Pictures:
    """Pictures that can be read, and those that cannot."""

    usable: tuple[Picture, ...] = ()
    skipped: tuple[SkippedImage, ...] = field(default=())


def find_pictures(
    sources: Sequence[str | Path], read: Callable[[Path], object], name: Callable[[ImageRef], str | None]
) -> Pictures:
    """All pictures of some sources that can be read; each is tried once.

    Args:
        sources: Folders, lists and images, as :func:`objemb.images.find_images` takes them.
        read: Raises ``UnreadableImageError`` for a picture that is of no use.
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
            usable.append(Picture(ref.id, str(ref.path), instance))
        except UnreadableImageError as error:
            skipped.append(SkippedImage(ref.id, str(ref.path), error.reason))
    return Pictures(tuple(usable), tuple(skipped))


def instance_names(names: str | Path | None) -> Callable[[ImageRef], str | None]:
    """How pictures get their instance names.

    Without a file: the column ``instance`` of the list that named the picture; else its sub-folder; else its name
    without suffix. With one: what the file says, and nothing for pictures that it does not know.

    Args:
        names: A CSV file with the columns ``file`` and ``instance``, or a JSON file: ``{file: instance}``, or an
            evaluation set (its images and queries). Files are relative to it, or ids of pictures.
    """
    if names is None:
        return _own_name
    table = _read_names(Path(names))
    root = os.path.realpath(Path(names).parent)
    by_path = {os.path.realpath(os.path.join(root, file)): instance for file, instance in table.items()}
    return lambda ref: by_path.get(os.path.realpath(ref.path), table.get(ref.id))


def _own_name(ref: ImageRef) -> str:
    if ref.metadata.get(INSTANCE) not in (None, ""):
        return str(ref.metadata[INSTANCE])
    parts = PurePosixPath(ref.id)
    return parts.parent.as_posix() if len(parts.parts) > 1 and not parts.is_absolute() else parts.stem


def _read_names(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise ValueError(f"{path}: expected a CSV or JSON file of instance names, found no such file")
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = (
            _json_rows(json.loads(text)) if path.suffix.lower() == ".json" else list(csv.DictReader(text.splitlines()))
        )
        return {str(row["file"]): str(row["instance"]) for row in rows}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        wanted = "CSV with the columns 'file' and 'instance', or JSON {file: instance} or of an evaluation set"
        raise ValueError(f"{path}: expected {wanted}, found: {type(error).__name__}: {error}") from error


def _json_rows(data: Any) -> list[Mapping[str, Any]]:
    if isinstance(data.get("images"), list):
        return [*data["images"], *data.get("queries", [])]
    return [{"file": file, "instance": instance} for file, instance in data.items()]


def split_names(names: Iterable[str], share: float, held_out: Sequence[str], seed: int) -> tuple[list[str], list[str]]:
    """Names for training and names that are held out, both sorted.

    Args:
        names: All of them.
        share: Part that is held out, drawn by the seed; at least one name stays on each side where there are two.
        held_out: Patterns such as ``tea*`` that say it instead; the share then does not count.
        seed: Of the draw.

    Raises:
        ValueError: A pattern that fits no name, or nothing is left for training.
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
        raise ValueError("held_out: expected that a name is left for training, found that all are held out")
    return [n for n in known if n not in chosen], [n for n in known if n in chosen]
