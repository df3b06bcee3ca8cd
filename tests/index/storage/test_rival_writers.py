"""Somebody else in the folder of a writer."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import objemb.index.storage.lock as lock
from objemb.checks import ArtefactMismatchError, IndexLockedError, IndexWriteError
from objemb.index.storage.lock import WriterLock
from objemb.index.storage.manifest import read_manifest
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.storage.verify import verify
from objemb.index.store import Index
from tests.index.made import described, new, publish
from tests.index.storage.conftest import add


def test_deleting_the_lock_file_lets_no_second_writer_in(index: Index) -> None:
    with index.writer() as writer:
        writer.add(described("a", 11))
        (index.path / "lock").unlink()
        with pytest.raises(IndexLockedError):
            add(Index.open(index.path), "b")
        writer.add(described("c", 12))
    assert sorted(i.id for i in Index.open(index.path).images()) == ["0", "1", "2", "3", "a", "c"]
    assert index.verify() == []


def test_where_folders_cannot_be_locked_a_writer_without_its_lock_file_gives_up(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS: the second writer has cleaned the files of the first away."""
    monkeypatch.setattr(lock, "_flock_folder", lambda folder: False)

    def lose_the_lock() -> None:
        with index.writer() as writer:
            writer.add(described("a", 11))
            (index.path / "lock").unlink()
            add(Index.open(index.path), "b")
            writer.commit()

    with pytest.raises(
        IndexWriteError,
        match=r"found that it was deleted or replaced.*nothing was published",
    ):
        lose_the_lock()
    assert sorted(i.id for i in Index.open(index.path).images()) == ["0", "1", "2", "3", "b"]
    assert verify(index.path) == []


def test_a_writer_that_lost_its_lock_leaves_the_files_of_the_second_alone(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_flock_folder", lambda folder: False)
    first = index.writer()
    first.__enter__()
    (index.path / "lock").unlink()
    with Index.open(index.path).writer(flush_rows=1) as second:
        second.add(described("b", 12))
        first.add(described("a", 11))
        with pytest.raises(IndexWriteError, match="found that it was deleted or replaced"):
            first.__exit__(None, None, None)
    assert verify(index.path) == []
    assert len(Index.open(index.path)) == 5


def test_a_lock_of_a_file_system_that_locks_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock = lock._flock

    def files_only(descriptor: int) -> None:
        if os.path.samestat(os.fstat(descriptor), os.stat(tmp_path)):
            raise OSError(9, "Bad file descriptor")
        flock(descriptor)

    monkeypatch.setattr(lock, "_flock", files_only)
    with WriterLock(tmp_path) as held:
        held.check()
        with pytest.raises(IndexLockedError):
            WriterLock(tmp_path).__enter__()
    WriterLock(tmp_path).__enter__().__exit__(None, None, None)


@pytest.mark.parametrize("replacement", ["nothing", "another index", "a copy"])
def test_a_folder_that_is_moved_away_is_not_published_over(index: Index, tmp_path: Path, replacement: str) -> None:
    other = new(tmp_path / "other", described("theirs", 50))
    shutil.copytree(index.path, tmp_path / "copy")
    kept = {"another index": other.path, "a copy": tmp_path / "copy"}.get(replacement)
    before = None if kept is None else {p.name: p.read_bytes() for p in kept.iterdir()}

    def write() -> None:
        with index.writer(flush_rows=1) as writer:
            writer.add(described("a", 11))
            index.path.rename(tmp_path / "away")
            if kept is not None:
                kept.rename(index.path)
            writer.add(described("b", 12))
            writer.commit()

    with pytest.raises(IndexWriteError, match="expected the locked folder, found that it was moved or replaced"):
        write()
    if before is not None:
        assert {p.name: p.read_bytes() for p in index.path.iterdir()} == before
    moved = Index.open(tmp_path / "away")
    assert len(moved) == 4
    add(moved)
    assert moved.verify() == []
    assert len(moved) == 5


def test_a_state_that_another_published_is_not_published_over(index: Index) -> None:
    """By a program that asks for no lock, such as a restored backup."""

    def write() -> None:
        with index.writer() as writer:
            writer.add(described("a", 11))
            publish(index.path, replace(read_manifest(index.path), generation=77))
            writer.commit()

    with pytest.raises(IndexWriteError, match="found one of another writer"):
        write()
    assert read_manifest(index.path).generation == 77
    assert verify(index.path) == []


def test_an_index_of_another_model_in_the_same_place(index: Index, tmp_path: Path) -> None:
    theirs = Index.create(tmp_path / "other", schema=UnitVectors(8), fingerprint="model-b")
    theirs.path.rename(tmp_path / "moving")
    index.path.rename(tmp_path / "away")
    (tmp_path / "moving").rename(index.path)
    with pytest.raises(ArtefactMismatchError, match=r"fingerprint 'model-a'.* found 'model-b'"):
        index.refresh()
    assert len(index.search(described("q"))) == 4  # goes on with what it opened
    for write in (lambda: add(index), index.compact, lambda: index.delete(["0"])):
        with pytest.raises(ArtefactMismatchError, match="'model-b'"):
            write()
    assert len(Index.open(index.path)) == 0


def test_an_index_of_the_same_model_in_the_same_place_is_shown(index: Index, tmp_path: Path) -> None:
    """How a search service changes to an index that was made anew."""
    new(tmp_path / "other", described("theirs", 50))
    index.path.rename(tmp_path / "away")
    (tmp_path / "other").rename(index.path)
    index.refresh()
    assert [i.id for i in index.images()] == ["theirs"]


def test_an_error_while_unlocking_hides_no_other_and_gives_the_lock_back(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    truncate, failing = os.ftruncate, []

    def fail(descriptor: int, length: int) -> None:
        if failing:
            raise OSError(5, "Input/output error")
        truncate(descriptor, length)

    monkeypatch.setattr(lock.os, "ftruncate", fail)

    def write() -> None:
        with index.writer():
            failing.append(True)
            raise RuntimeError("the real error")

    with pytest.raises(RuntimeError, match="the real error"):
        write()
    failing.clear()
    add(index)
    assert len(index) == 5


def test_a_system_without_such_locks_is_refused_at_once(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "os", type("Windows", (), {"name": "nt"}))
    with pytest.raises(IndexWriteError, match=r"expected Linux, macOS .* found 'nt'; on Windows use WSL"):
        Index.create(tmp_path / "w", schema=UnitVectors(8), fingerprint="model-a")
    assert not (tmp_path / "w").exists()
    with pytest.raises(IndexWriteError, match="WSL"):
        add(index)
    assert len(index.search(described("q"))) == 4
