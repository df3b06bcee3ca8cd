"""A file that changes under a reader."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from objemb.checks import DamagedIndexError, IndexFolderError
from objemb.index.storage.files import Folder, open_file, unreadable
from objemb.index.store import Index
from tests.index.made import described, new, same

SHRINK = """
import sys
from pathlib import Path
from objemb.index.store import Index
from objemb.index.storage.files import SMALL_BYTES
index = Index.open(sys.argv[1])
for kind in ("rows", "images"):
    path, = Path(sys.argv[1]).glob("*." + kind)
    assert path.stat().st_size > SMALL_BYTES
    path.write_bytes(b"")
try:
    index.stamps()
except Exception as error:
    print(type(error).__name__)
"""


def test_a_table_that_is_cut_short_is_an_error_and_no_crash(tmp_path: Path) -> None:
    """A mapped one would end the process with SIGBUS."""
    index = new(tmp_path / "i", dim=2)
    one = described("0", count=2, dim=2)
    with index.writer() as writer:
        for n in range(4000):
            writer.add(replace(one, image=f"{n} {'x' * 40}"))
    run = subprocess.run([sys.executable, "-c", SHRINK, str(index.path)], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "DamagedIndexError"


def test_a_large_table_is_read_after_its_file_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("objemb.index.storage.files.SMALL_BYTES", 16)
    index = new(tmp_path / "i", described("a", 1), described("b", 2))
    reader = Index.open(index.path)
    index.delete(["b"])
    index.compact()
    assert not (index.path / "00000001.rows").exists()
    assert same(reader.get("b"), described("b", 2))
    open_files = Path("/proc/self/fd")
    if open_files.exists():
        targets = [os.readlink(open_files / d) for d in os.listdir(open_files) if (open_files / d).exists()]
        assert not [t for t in targets if str(index.path) in t and "deleted" in t]


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (24, IndexFolderError, "Too many open files: this process has too many open files or maps; 'objemb compact'"),
        (12, IndexFolderError, "Cannot allocate memory: this process has too many open files or maps"),
        (13, IndexFolderError, "cannot be read: Permission denied"),
        (5, DamagedIndexError, "cannot be read: Input/output error"),
    ],
)
def test_what_a_failing_read_means(
    index: Index, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception], message: str
) -> None:
    error = OSError(number, os.strerror(number))
    assert isinstance(unreadable(Path("x"), error), kind)
    real = os.open

    def fail(path: Any, *args: Any, **options: Any) -> int:
        if str(path).endswith(".rows"):
            raise error
        return real(path, *args, **options)

    monkeypatch.setattr("objemb.index.storage.files.os.open", fail)
    with pytest.raises(kind, match=message):
        Index.open(index.path)


def test_files_are_closed_when_they_are_no_regular_ones(tmp_path: Path) -> None:
    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(DamagedIndexError, match="found a folder"):
            open_file(tmp_path)
        with pytest.raises(NotADirectoryError):
            Folder(Path(__file__))
    assert len(os.listdir("/proc/self/fd")) == before
