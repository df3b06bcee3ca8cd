"""A cache of arrays in a folder, keyed by everything that they depend on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from objemb.disk import file_sha256, replacing_folder
from objemb.types import AnyArray

FORMAT, FORMAT_VERSION = "objemb-cache", 1
CARD = "entry.json"
#: Arrays of more bytes than this are mapped from their file.
LARGE = 1 << 20


@dataclass(frozen=True, eq=False)
class Cached:
    """An entry of the cache.

    Attributes:
        arrays: The arrays by name. Those of a stored entry are read-only, and large ones are mapped from their files.
        about: JSON-ready facts that were stored with them.
    """

    arrays: Mapping[str, AnyArray]
    about: Mapping[str, Any]


class ArrayCache:
    """A folder of entries, each in a subfolder that is published atomically.

    ::

        DIR/KEY/entry.json      the facts, and the checksum of each array
            NAME.npy            an array

    An entry that is damaged or was written by another version is reported, removed and treated as missing. Otherwise
    nothing is removed; the folder may be deleted at any time.

    Args:
        folder: Created when the first entry is stored.
        on_note: Called with a line for each entry that could not be used.
    """

    def __init__(self, folder: str | Path, on_note: Callable[[str], None] = lambda line: None) -> None:
        self.folder = Path(folder)
        self._note = on_note

    def load(self, key: str) -> Cached | None:
        """The entry of a key (see :func:`key_of`); None if there is none that can be used."""
        place = self.folder / key
        if not place.exists():
            return None
        try:
            return _read(place)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            self._note(f"{place}: damaged ({error}), computed again")
            _remove(place)
            return None

    def store(self, key: str, arrays: Mapping[str, AnyArray], about: Mapping[str, object]) -> None:
        """Store numeric arrays and facts. An entry that another process has stored in the meantime is kept."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing_folder(self.folder / key, keep=True) as partial:
            for name, array in arrays.items():
                np.save(partial / f"{name}.npy", array, allow_pickle=False)
            files = {name: file_sha256(partial / f"{name}.npy") for name in arrays}
            card = {"format": FORMAT, "format_version": FORMAT_VERSION, "about": dict(about), "sha256": files}
            (partial / CARD).write_text(json.dumps(card, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def key_of(facts: Mapping[str, object]) -> str:
    """The SHA-256 of JSON-ready facts, 64 hex digits."""
    text = json.dumps(facts, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def photo_facts(paths: Iterable[Path]) -> str:
    """A SHA-256 of the paths, sizes and modification times of files, missing ones included: 64 hex digits."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            status = os.stat(path)
            line = f"{os.path.abspath(path)}\0{status.st_size}\0{status.st_mtime_ns}\n"
        except OSError:
            line = f"{os.path.abspath(path)}\0missing\n"
        digest.update(line.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _read(place: Path) -> Cached:
    card = json.loads((place / CARD).read_text(encoding="utf-8"))
    if (card["format"], card["format_version"]) != (FORMAT, FORMAT_VERSION):
        raise ValueError(f"expected format {FORMAT} {FORMAT_VERSION}, found {card['format']} {card['format_version']}")
    arrays = {}
    for name, expected in card["sha256"].items():
        file = place / f"{name}.npy"
        digest = file_sha256(file)
        if digest != expected:
            raise ValueError(f"{file.name}: expected sha256 {expected[:12]}, found {digest[:12]}")
        arrays[name] = np.load(file, mmap_mode="r" if file.stat().st_size > LARGE else None, allow_pickle=False)
    return Cached(arrays, dict(card["about"]))


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)
