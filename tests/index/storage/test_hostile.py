"""What a stranger puts into an index, and what happens to its folder while it is open."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import objemb.index.storage.lock as lock
from objemb.checks import ArtefactMismatchError
from objemb.index.storage import tables
from objemb.index.storage.errors import DamagedIndexError, IndexFolderError, IndexLockedError, IndexWriteError
from objemb.index.storage.files import FileRecord, Folder, open_file, unreadable
from objemb.index.storage.ipc import from_ipc
from objemb.index.storage.lock import WriterLock
from objemb.index.storage.manifest import read_manifest
from objemb.index.storage.verify import verify
from objemb.index.store import Index
from tests.index.made import described, new, publish, same, store_file


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return new(tmp_path / "i", *(described(f"{n}", n, price=n) for n in range(4)))


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    file = tmp_path / "precious.txt"
    file.write_text("all my work")
    return file


def add(index: Index, name: str = "new") -> None:
    with index.writer() as writer:
        writer.add(described(name, 9))


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
        Index.create(tmp_path / "other", dim=8, fingerprint="model-a")
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


# Somebody else in the folder of a writer ----------------------------------------------------------------------------


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

    with pytest.raises(IndexWriteError, match=r"lock: deleted or replaced .*nothing was published"):
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
        with pytest.raises(IndexWriteError, match="lock: deleted or replaced"):
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

    with pytest.raises(IndexWriteError, match="the folder was moved or replaced"):
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
    theirs = Index.create(tmp_path / "other", dim=8, fingerprint="model-b")
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


# Forged contents with right checksums --------------------------------------------------------------------------------


def forge(index: Index, **files: Any) -> None:
    """Replace files of the first segment, and let the manifest say that all is right."""
    manifest = replace(read_manifest(index.path), next_file=1000)
    segment = manifest.segments[0]
    records: dict[str, FileRecord] = {
        kind: store_file(index.path, f"{500 + n:08d}.{kind}", data) for n, (kind, data) in enumerate(files.items())
    }
    publish(index.path, replace(manifest, segments=(replace(segment, files={**segment.files, **records}),)))


def raw(index: Index, kind: str) -> bytes:
    return next(index.path.glob(f"00000001.{kind}")).read_bytes()


def use(path: Path) -> None:
    index = Index.open(path)
    list(index.images())
    index.stamps()
    for n in range(4):
        index.get(f"{n}")
    index.search(described("q"), where="price < 9 and image != x")
    index.dense_rows()


def changed_columns(index: Index, kind: str, **columns: pa.Array) -> pa.Buffer:
    schema = {"rows": tables.ROWS, "images": tables.IMAGES}[kind]
    batch = from_ipc(pa.py_buffer(raw(index, kind)), schema, {"rows": 12, "images": 4}[kind])
    arrays = [columns.get(f.name, c) for f, c in zip(schema, batch.columns, strict=True)]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=schema))
    return sink.getvalue()


def patched(content: bytes, old: list[int], new: list[int], width: str = "<i8") -> bytes:
    """The bytes with other offsets: Arrow would not write them."""
    before, after = (np.array(numbers, width).tobytes() for numbers in (old, new))
    assert content.count(before) == 1
    return content.replace(before, after)


BIG = pa.large_binary()


@pytest.mark.parametrize(
    "columns",
    [
        {"id": pa.array([None, b"1", b"2", b"3"], BIG)},
        {"image": pa.array([0, 1, None, 3], pa.int64())},
        {"rows": pa.array([3, 3, None, 3], pa.int64())},
        {"image": pa.array([0, 2, 1, 3])},
        {"image": pa.array([-4, 1, 2, 3])},
        {"image": pa.array([0, 1, 2, 9])},
        {"rows": pa.array([3, 3, 3, 4])},
        {"rows": pa.array([15, -3, 0, 0])},
        {"rows": pa.array([1 << 62, 1 << 62, 1 << 62, (1 << 62) + 12])},
        {"id": pa.array([b"\xff\xfe", b"1", b"2", b"3"], BIG)},
        {"id": pa.array([b"0", b"0", b"2", b"3"], BIG)},
        {"id": pa.array([b"", b"1", b"2", b"3"], BIG)},
        {"metadata": pa.array([b"[1]", b"{}", b"{}", b"{}"], BIG)},
        {"metadata": pa.array([b"[" * 100_000, b"{}", b"{}", b"{}"], BIG)},
        {"metadata": pa.array([b'{"a": {}}', b"{}", b"{}", b"{}"], BIG)},
        {"metadata": pa.array([b'{"a": ' + b"9" * 5000 + b"}", b"{}", b"{}", b"{}"], BIG)},
        {"height": pa.array([-480, 480, 480, 480])},
        {"stamp": pa.array([b"\xff", None, None, None], BIG)},
    ],
)
def test_forged_tables_of_images_end_in_one_clear_error(index: Index, columns: dict[str, pa.Array]) -> None:
    forge(index, images=changed_columns(index, "images", **columns))
    with pytest.raises(DamagedIndexError, match="expected"):
        use(index.path)
    assert verify(index.path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ([0, 1, 2, 3, 4], [0, 1, 2, 3, 1 << 40]),
        ([0, 1, 2, 3, 4], [0, 3, -5, 3, 4]),
        ([0, 1, 2, 3, 4], [0, 1 << 62, 2, 3, 4]),
        ([0, 11, 22, 33, 44], [0, 11, 22, 33, 1 << 50]),
        ([0, 11, 22, 33, 44], [-(1 << 45), 11, 22, 33, 44]),
    ],
)
def test_forged_offsets_lead_nowhere(index: Index, old: list[int], new: list[int]) -> None:
    forge(index, images=patched(raw(index, "images"), old, new))
    with pytest.raises(DamagedIndexError, match=r"00000500.images: "):
        use(index.path)
    assert "00000500.images" in verify(index.path)[0]


def forged_labels(codes: list[int], names: pa.Array) -> pa.Array:
    indices = pa.array(codes, pa.int32())
    return pa.DictionaryArray.from_arrays(indices, names, safe=False)


@pytest.mark.parametrize(
    "columns",
    [
        {"image": pa.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 99])},
        {"image": pa.array([-1, *range(11)])},
        {"label": forged_labels([*range(11), 1 << 30], pa.array([b"a", b"b"]))},
        {"label": forged_labels([-7] * 12, pa.array([b"a", b"b"]))},
        {"label": forged_labels([0] * 12, pa.array([None, b"b"]))},
        {"label": forged_labels([0] * 12, pa.array([b"\xff", b"b"]))},
        {"box": pa.FixedSizeListArray.from_arrays(pa.array([np.nan] * 48, pa.float32()), 4)},
        {"box": pa.FixedSizeListArray.from_arrays(pa.array([None] * 48, pa.float32()), 4)},
        {"box": pa.FixedSizeListArray.from_arrays(pa.array([5.0, 5.0, 1.0, 1.0] * 12, pa.float32()), 4)},
        {"score": pa.array([None] * 12, pa.float32())},
        {"score": pa.array([np.inf] * 12, pa.float32())},
    ],
)
def test_forged_tables_of_regions_end_in_one_clear_error(index: Index, columns: dict[str, pa.Array]) -> None:
    forge(index, rows=changed_columns(index, "rows", **columns))
    with pytest.raises(DamagedIndexError, match=r"expected|out of bounds"):
        use(index.path)
    assert verify(index.path)


@pytest.mark.parametrize("kind", ["rows", "images"])
def test_mutated_tables_with_right_checksums_never_crash(index: Index, kind: str) -> None:
    """Bytes that the parser sees: a crash would end this process."""
    random, original = np.random.default_rng(0), raw(index, kind)
    folder = index.path
    untouched = {p.name: p.read_bytes() for p in folder.iterdir()}
    for _ in range(60):
        data = bytearray(original)
        for place in random.integers(len(data), size=random.integers(1, 6)):
            data[place] = random.integers(256)
        forge(index, **{kind: bytes(data)})
        with suppress(DamagedIndexError):
            use(folder)
        assert isinstance(verify(folder), list)
        for path in folder.glob("000005*"):
            path.unlink()
        (folder / "manifest").write_bytes(untouched["manifest"])


def test_a_wrong_bit_brings_no_deleted_image_back(index: Index) -> None:
    index.delete(["2"])
    path = next(index.path.glob("*.deleted"))
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    for action in (Index.open, lambda p: index.delete(["0"]), lambda p: index.compact()):
        with pytest.raises(DamagedIndexError, match=rf"{path.name}: expected SHA-256"):
            action(index.path)
    data[0] ^= 1
    path.write_bytes(data)
    assert sorted(i.id for i in Index.open(index.path).images()) == ["0", "1", "3"]


def test_forged_numbers_of_deleted_images(index: Index) -> None:
    index.delete(["2", "3"])
    manifest = replace(read_manifest(index.path), next_file=1000)
    record = store_file(index.path, "00000500.deleted", np.array([3, 2], "<i8"))
    publish(index.path, replace(manifest, deleted=record))
    with pytest.raises(DamagedIndexError, match="ascending numbers of deleted images"):
        Index.open(index.path)


# A file that changes under a reader ----------------------------------------------------------------------------------

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
        (24, IndexFolderError, "Too many open files: this process has no more files or maps to open; 'objemb compact'"),
        (12, IndexFolderError, "Cannot allocate memory: this process has no more files or maps"),
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


def test_a_system_without_such_locks_is_told_at_once(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "os", type("Windows", (), {"name": "nt"}))
    with pytest.raises(IndexWriteError, match=r"expected Linux, macOS .* found 'nt'; on Windows use WSL"):
        Index.create(tmp_path / "w", dim=8, fingerprint="model-a")
    assert not (tmp_path / "w").exists()
    with pytest.raises(IndexWriteError, match="WSL"):
        add(index)
    assert len(index.search(described("q"))) == 4


@pytest.mark.parametrize("kind", ["rows", "images"])
@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_compressed_tables_are_refused_before_they_unfold(index: Index, kind: str, compression: str) -> None:
    schema = {"rows": tables.ROWS, "images": tables.IMAGES}[kind]
    batch = from_ipc(pa.py_buffer(raw(index, kind)), schema, {"rows": 12, "images": 4}[kind])
    columns = dict(zip(schema.names, batch.columns, strict=True))
    bomb = b"\0" * (1 << 24)
    if kind == "images":
        columns["stamp"] = pa.array([bomb] * 4, pa.large_binary())
    else:
        columns["label"] = pa.array([bomb] * 12, pa.binary()).dictionary_encode()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_batch(pa.record_batch(list(columns.values()), schema=schema))
    content = sink.getvalue()
    assert content.size < 1 << 20
    forge(index, **{kind: content})
    del batch, columns, bomb
    before = pa.total_allocated_bytes()
    with pytest.raises(DamagedIndexError, match=r"expected tables that are not compressed, found one that is"):
        use(index.path)
    assert pa.total_allocated_bytes() - before < 1 << 22
    assert "not compressed" in verify(index.path)[0]


def test_files_that_are_no_tables_at_all(index: Index) -> None:
    random = np.random.default_rng(0)
    for content in (b"", b"x", b"ARROW1", b"\0" * 64, b"\xff" * 64, *(random.bytes(n) for n in range(1, 90))):
        for end in (b"", b"\x10\0\0\0ARROW1", b"\0\0\0\x80ARROW1"):
            with pytest.raises((ValueError, OSError), match=r".+"):
                from_ipc(pa.py_buffer(content + end), tables.ROWS, 0)
