"""Checking a whole index: its files and rows, and whether its search structures belong to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from objemb.checks import ObjembError
from objemb.index.storage.manifest import read_manifest
from objemb.index.storage.snapshot import Snapshot
from objemb.index.storage.verify import verify
from objemb.index.structures import load_structure


def verify_index(folder: str | Path, on_bytes: Callable[[int], None] = lambda count: None) -> list[str]:
    """As :func:`objemb.index.storage.verify.verify`, and what is wrong with search structures: those that cannot be
    opened, and those that were built over other rows than the index has. One whose engine is not installed here is
    searched exactly anyway, and is left alone."""
    folder = Path(folder)
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
                return verify_index(folder)
            problems.append(str(error))
    return problems
