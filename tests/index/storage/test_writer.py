"""Transactions: what is visible when, what survives failures, who may write."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import objemb.index.storage.files as files
import objemb.index.storage.joining as joining
from objemb.checks import IndexLockedError, IndexWriteError
from objemb.index.storage.lock import WriterLock
from objemb.index.store import Index
from objemb.structures import RegionDescriptors, Regions
from tests.index.made import described, new, same, vectors


def names(index: Index) -> list[str]:
    return sorted(p.name for p in index.path.iterdir())


def test_changes_are_visible_at_commit_and_at_the_end(tmp_path: Path) -> None:
    index = new(tmp_path / "i")
    reader = Index.open(tmp_path / "i")
    with index.writer() as writer:
        writer.add(described("a"))
        reader.refresh()
        assert len(reader) == len(index) == 0
        writer.commit()
        reader.refresh()
        assert len(reader) == len(index) == 1
        writer.add(described("b"))
    reader.refresh()
    assert len(reader) == len(index) == 2


def test_an_exception_drops_what_was_not_committed(tmp_path: Path) -> None:
    index = new(tmp_path / "i")

    def fail() -> None:
        with index.writer(flush_rows=4) as writer:
            writer.add(described("a"))
            writer.commit()
            for n in range(9):
                writer.add(described(f"b{n}"))
            writer.delete(["a"])
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert [i.id for i in Index.open(tmp_path / "i").images()] == ["a"]
    assert names(index) == ["00000001.images", "00000001.rows", "00000001.vectors", "lock", "manifest"]
    with index.writer() as writer:
        writer.add(described("c"))
    assert [i.id for i in index.images()] == ["a", "c"]


def test_a_bad_image_leaves_the_writer_usable(tmp_path: Path) -> None:
    index = new(tmp_path / "i", dim=2)
    with index.writer() as writer:
        writer.add(vectors("a", [[1.0, 0.0]]))
        with pytest.raises(ValueError, match="unit length"):
            writer.add(vectors("b", [[0.0, 1.0], [3.0, 4.0]]))
        with pytest.raises(ValueError, match="metadata of 'c'"):
            writer.add(vectors("c", [[1.0, 0.0]], huge=10**5000))
        writer.add(vectors("d", [[0.0, 1.0]]))
    assert [i.id for i in index.images()] == ["a", "d"]
    assert index.verify() == []


def test_nothing_to_publish_publishes_nothing(tmp_path: Path) -> None:
    index = new(tmp_path / "i", described("a"))
    before = (tmp_path / "i" / "manifest").read_bytes()
    with index.writer() as writer:
        writer.commit()
        assert writer.delete(["unknown"]) == ["unknown"]
    assert (tmp_path / "i" / "manifest").read_bytes() == before


def test_delete_and_add_in_one_transaction(tmp_path: Path) -> None:
    index = new(tmp_path / "i", described("a", 1), described("b", 2))
    with index.writer() as writer:
        assert "a" in writer
        assert writer.delete(["a"]) == []
        assert writer.delete(["a"]) == ["a"]
        assert "a" not in writer
        writer.add(described("a", 3))
        writer.add(described("new", 4))
        writer.delete(["new"])
    assert same(index.get("a"), described("a", 3))
    assert sorted(i.id for i in index.images()) == ["a", "b"]
    assert index.verify() == []


def test_segments_close_when_full(tmp_path: Path) -> None:
    index = new(tmp_path / "i")
    with index.writer(flush_rows=12) as writer:
        for n in range(10):
            writer.add(described(f"{n}", n, count=3))
    assert [s.record.images for s in index._snapshot.segments] == [4, 4, 2]
    assert index.verify() == []


def test_the_caller_may_reuse_its_tensors(tmp_path: Path) -> None:
    index = new(tmp_path / "i", dim=2)
    buffer = torch.tensor([[1.0, 0.0]])
    with index.writer() as writer:
        writer.add(RegionDescriptors("a", Regions.whole((5, 5)), buffer))
        buffer[:] = torch.tensor([[0.0, 1.0]])
    assert index.get("a").vectors.tolist() == [[1.0, 0.0]]


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    def peak(folder: Path, count: int) -> int:
        index = new(folder)
        one = described("0", count=4)
        tracemalloc.start()
        with index.writer(flush_rows=500) as writer:
            for n in range(count):
                writer.add(RegionDescriptors(f"{n}", one.regions, one.vectors))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(tmp_path / "warm", 100)
    assert peak(tmp_path / "many", 2000) < 1.3 * peak(tmp_path / "few", 200) + 300_000


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file of this process may grow beyond ``size`` bytes; what a full disk looks like."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_leaves_the_published_state_and_nothing_else(tmp_path: Path) -> None:
    index = new(tmp_path / "i", described("a", 1))
    before = names(index)

    def fill() -> None:
        with index.writer() as writer:
            for n in range(1500):
                writer.add(described(f"{n}", n % 10))
            with file_size_limit(30_000):
                writer.commit()

    with pytest.raises(IndexWriteError, match=r"cannot write the index.*intact"):
        fill()
    assert names(index) == before
    assert index.verify() == []
    assert same(Index.open(tmp_path / "i").get("a"), described("a", 1))
    with index.writer() as writer:
        writer.add(described("b", 2))
    assert len(index) == 2


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_failing_system_call_leaves_the_published_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    index = new(tmp_path / "i", described("a", 1))
    before = names(index)

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, step, fail)
    for change in (lambda: index.delete(["a"]), lambda: new(tmp_path / "other"), index.compact):
        if change == index.compact:
            monkeypatch.undo()
            index.delete(["a"])
            before = names(index)
            monkeypatch.setattr(files.os, step, fail)
        with pytest.raises(IndexWriteError, match="No space left on device"):
            change()
    monkeypatch.undo()
    assert names(index) == before
    assert index.verify() == []


def test_a_failed_writer_stays_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = new(tmp_path / "i")

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    def swallow_the_failure() -> None:
        with index.writer() as writer:
            writer.add(described("a"))
            monkeypatch.setattr(files.os, "fsync", fail)
            with pytest.raises(IndexWriteError, match="Input/output error"):
                writer.commit()
            monkeypatch.undo()
            with pytest.raises(IndexWriteError, match="has failed"):
                writer.add(described("b"))

    with pytest.raises(IndexWriteError, match="has failed"):
        swallow_the_failure()
    assert len(Index.open(tmp_path / "i")) == 0


def test_a_closed_writer_is_closed(tmp_path: Path) -> None:
    index = new(tmp_path / "i")
    writer = index.writer()
    with pytest.raises(IndexWriteError, match="expected an open writer"):
        writer.add(described("a"))
    with writer:
        writer.add(described("a"))
    with pytest.raises(IndexWriteError, match="expected an open writer"):
        writer.commit()
    with writer:  # a writer may be opened again, and then sees what is there
        assert "a" in writer


def test_only_one_writer_and_the_message_names_it(tmp_path: Path) -> None:
    index = new(tmp_path / "i", described("a"))
    with index.writer() as writer:
        for change in (lambda: index.delete(["a"]), index.compact, lambda: Index.open(index.path).writer().__enter__()):
            with pytest.raises(IndexLockedError, match=rf"process {os.getpid()} \(this process\)"):
                change()
        writer.add(described("b"))
    assert len(index) == 2


HOLD = """
import sys
from pathlib import Path
from objemb.index.storage.lock import WriterLock
with WriterLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    index = new(tmp_path / "i", described("a"))
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(index.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"held\n"
    with pytest.raises(IndexLockedError, match=f"process {child.pid} "):
        index.delete(["a"])
    child.kill()
    child.communicate()
    assert index.delete(["a"]) == []


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    """A worker process that outlives a killed writer must not block the next one."""
    with WriterLock(tmp_path) as lock:
        child = os.fork()
        if child == 0:
            try:
                os.fstat(lock._descriptor)
            except OSError:
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        with pytest.raises(IndexLockedError):
            WriterLock(tmp_path).__enter__()


def test_leftovers_of_a_killed_writer_go_and_foreign_files_stay(tmp_path: Path) -> None:
    index = new(tmp_path / "i", described("a"))
    for name in ("00000002.vectors", "00000002.rows", "manifest.tmp", "README", "notes.vectors"):
        (index.path / name).write_bytes(b"x")
    assert len(Index.open(index.path)) == 1
    assert (index.path / "00000002.vectors").exists()  # readers clean nothing
    with index.writer() as writer:
        writer.add(described("b"))
    assert set(names(index)) >= {"README", "notes.vectors", "00000002.images"}
    assert "manifest.tmp" not in names(index)
    assert index.verify() == []


def test_a_reader_keeps_its_state_while_others_write(tmp_path: Path) -> None:
    index = new(tmp_path / "i", *(described(f"{n}", n) for n in range(6)))
    reader = Index.open(index.path)
    expected = index.search(described("q", 50), 10)
    index.delete(["1", "2"])
    index.compact()
    with index.writer() as writer:
        writer.add(described("0", 77))
    assert reader.search(described("q", 50), 10) == expected
    assert same(reader.get("1"), described("1", 1))
    reader.refresh()
    assert reader.get("1") is None


def test_opening_tries_again_when_a_writer_was_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import objemb.index.storage.snapshot as snapshot

    index = new(tmp_path / "i", described("a"), described("b"))
    read, calls = snapshot.read_manifest, []

    def slow(folder: Path) -> object:
        manifest = read(folder)
        calls.append(folder)
        if len(calls) == 1:  # between reading the manifest and opening the files it names
            monkeypatch.setattr(snapshot, "read_manifest", read)
            index.delete(["a"])
            index.compact()
            monkeypatch.setattr(snapshot, "read_manifest", slow)
        return manifest

    monkeypatch.setattr(snapshot, "read_manifest", slow)
    assert [i.id for i in Index.open(index.path).images()] == ["b"]
    assert len(calls) >= 2


def test_many_small_segments_need_no_file_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "FANOUT", 64)
    index = new(tmp_path / "i")
    with index.writer() as writer:
        for n in range(40):
            writer.add(described(f"{n}", n, count=1))
            writer.commit()
    old = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 64
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 15, old[1]))
    try:
        assert len(Index.open(index.path).search(described("q"), 100)) == 40
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, old)
