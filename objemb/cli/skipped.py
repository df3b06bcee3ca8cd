"""The list of skipped photos, which `objemb index` and `objemb migrate` write."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from objemb.cli.output import note

if TYPE_CHECKING:
    from objemb.detectors.stored_boxes import StoredBoxes
    from objemb.images.sources import SkippedImage

#: Number of skipped photos that are printed; the list has all of them.
SHOWN = 20


def beside(index: str, suffix: str) -> Path:
    """The name of an index with a suffix, for what is kept beside its folder, or in the working folder under the name
    of its table if it lives at an address."""
    from objemb.index.addresses import parse_address

    address = parse_address(index)
    folder = Path(index if address is None else address.table)
    whole = Path(os.path.abspath(folder))  # "." has no name to put a suffix to
    if not whole.name:
        raise ValueError(f"--output: expected a folder for the index, found {index!r}")
    named = folder if folder.name == whole.name else whole
    return named.with_name(named.name + suffix)


class SkippedList:
    """The list of skipped photos, written as they occur, followed by the boxes that could not be used.

    A context manager, which closes the list at the end, and removes it if it is empty.

    The list of an earlier run is replaced once this run holds the index's lock, so that a concurrent run keeps its own.
    By default the list is beside the index, where an attacker may have put a link to a file of the user, so an existing
    name is removed rather than written to.

    Args:
        index: The index; the list of one at an address lies in the working folder, under the name of its table.
        path: The file given by the user, if any; it is kept even if it is empty.

    Attributes:
        file: Path of the list.
    """

    def __init__(self, index: str, path: Path | None) -> None:
        self.file = path or beside(index, ".skipped.jsonl")
        if self.file.is_dir():
            raise IsADirectoryError(
                errno.EISDIR, "expected a file for the list of skipped photos, found a folder", str(self.file)
            )
        self._named = path is not None
        self._stream: TextIO | None = None
        self._count = 0

    def begin(self) -> None:
        """Replace the list of an earlier run."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        if not self._named:
            self.file.unlink(missing_ok=True)
        self._stream = self.file.open("w" if self._named else "x", encoding="utf-8")

    def add(self, skipped: SkippedImage) -> None:
        """Write one photo, and print it if it is among the first."""
        if self._stream is not None:
            self._stream.write(json.dumps(skipped.to_json()) + "\n")
            self._stream.flush()
        self._count += 1
        if self._count <= SHOWN:
            note(f"skipped {skipped.path}: {skipped.reason}")

    def add_boxes(self, given: StoredBoxes | None) -> None:
        """Write the boxes that could not be used: the entry, the file, and the reason."""
        if given is None or self._stream is None:
            return
        for entry, reason in given.problems:
            self._stream.write(json.dumps({"id": entry, "path": given.file, "reason": reason}) + "\n")
            self._count += 1

    def __enter__(self) -> SkippedList:
        return self

    def __exit__(self, *error: object) -> None:
        if self._stream is not None:
            self._stream.close()
            if not self._count and not self._named:
                self.file.unlink(missing_ok=True)
