"""Checking a whole index: its files and rows, and whether its search structures belong to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from objemb.checks import IndexFolderError, ObjembError
from objemb.index.storage.generations import other_generations
from objemb.index.storage.manifest import read_manifest
from objemb.index.storage.snapshot import Snapshot
from objemb.index.storage.verify import verify
from objemb.index.structures import load_structure


def verify_index(folder: str | Path, on_bytes: Callable[[int], None] = lambda count: None) -> list[str]:
    """As :func:`objemb.index.storage.verify.verify`, and what is wrong with search structures: those that cannot be
    opened, and those that were built over other rows than the index has. One whose engine is not installed here is
    searched exactly anyway, and is left alone. Problems of a next or previous generation begin with its name."""
    folder = Path(folder)
    problems = _verify_generation(folder, on_bytes)
    for name in other_generations(folder):
        try:
            problems += [f"{name}: {problem}" for problem in _verify_generation(folder / name, on_bytes)]
        except IndexFolderError as error:
            if name in other_generations(folder):  # else it was published or dropped meanwhile
                problems.append(f"{name}: {error}")
    return problems


def _verify_generation(folder: Path, on_bytes: Callable[[int], None]) -> list[str]:
    problems = verify(folder, on_bytes)
    if problems:
        return problems
    manifest = read_manifest(folder)
    for record in manifest.structures:
        try:
            load_structure(Snapshot(folder, manifest), record)
        except ImportError:
            continue
        except (ObjembError, FileNotFoundError) as error:
            if read_manifest(folder) != manifest:  # a writer has published meanwhile, and files are gone
                return _verify_generation(folder, on_bytes)
            problems.append(str(error))
    return problems
