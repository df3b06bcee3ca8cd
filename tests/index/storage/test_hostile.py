"""What a stranger puts into an index, and what happens to its folder while it is open."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from objemb.checks import DamagedIndexError, IndexWriteError
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.storage.verify import verify
from objemb.index.store import Index
from tests.index.made import described, new
from tests.index.storage.conftest import add


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    file = tmp_path / "precious.txt"
    file.write_text("all my work")
    return file


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_a_lock_that_is_a_link_empties_no_file(
    index: Index, precious: Path, link: Callable[[Path, Path], None]
) -> None:
    (index.path / "lock").unlink()
    link(index.path / "lock", precious)
    for write in (lambda: add(index), lambda: index.delete(["0"]), index.compact):
        with pytest.raises(IndexWriteError, match=r"lock: cannot lock .* expected a (lock )?file, found"):
            write()
    assert precious.read_text() == "all my work"
    assert len(Index.open(index.path)) == 4


def test_creating_follows_no_planted_link(tmp_path: Path, precious: Path) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "manifest.tmp").symlink_to(precious)
    new(folder, described("a"))
    assert precious.read_text() == "all my work"
    assert not (folder / "manifest.tmp").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "lock").symlink_to(precious)
    with pytest.raises(IndexWriteError, match="found a symbolic link"):
        Index.create(tmp_path / "other", schema=UnitVectors(8), fingerprint="model-a")
    assert precious.read_text() == "all my work"


@pytest.mark.parametrize("kind", ["vectors", "rows", "images", "deleted", "ann"])
def test_new_files_follow_no_planted_link(index: Index, precious: Path, kind: str) -> None:
    if kind == "ann":
        pytest.importorskip("faiss")
    for number in range(1, 9):
        for target, name in (
            (precious, f"{number:08d}.{kind}"),
            (precious.with_name("nowhere"), f"1{number:08d}.{kind}"),
        ):
            with_suffix = index.path / name
            if not with_suffix.exists():
                with_suffix.symlink_to(target)
    add(index)
    index.delete(["0"])
    if kind == "ann":
        index.build_structure()
    assert precious.read_text() == "all my work"
    assert not precious.with_name("nowhere").exists()
    assert index.verify() == []


def test_reading_follows_links(index: Index, tmp_path: Path) -> None:
    """Caches of data sets are made of links; what is read is checked."""
    linked = tmp_path / "linked"
    linked.mkdir()
    for file in index.path.iterdir():
        (linked / file.name).symlink_to(file)
    assert len(Index.open(linked).search(described("q"))) == 4
    assert verify(linked) == []


@pytest.mark.parametrize(
    "name", ["manifest", "00000001.vectors", "00000001.rows", "00000001.images", "00000004.deleted"]
)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_neither_hangs_nor_fills_the_memory(index: Index, name: str, kind: str) -> None:
    index.delete(["1", "2"])
    index.delete(["3"])
    path = next(index.path.glob("*.deleted")) if name.endswith("deleted") else index.path / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(
        DamagedIndexError, match=f"{path.name}: cannot be read: expected a regular file, found a {kind}"
    ):
        Index.open(index.path)
    assert "expected a regular file" in verify(index.path)[0]


def test_a_lock_that_is_a_pipe_is_refused(index: Index) -> None:
    (index.path / "lock").unlink()
    os.mkfifo(index.path / "lock")
    with pytest.raises(IndexWriteError, match="expected a lock file"):
        add(index)


def test_a_manifest_is_not_read_beyond_all_measure(index: Index) -> None:
    os.truncate(index.path / "manifest", 1 << 40)  # a hole, which takes no space
    with pytest.raises(DamagedIndexError, match="expected at most 268435456 bytes"):
        Index.open(index.path)
