"""Forged contents with right checksums."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from objemb.checks import DamagedIndexError
from objemb.index.storage import tables
from objemb.index.storage.files import FileRecord
from objemb.index.storage.ipc import from_ipc
from objemb.index.storage.manifest import read_manifest
from objemb.index.storage.verify import verify
from objemb.index.store import Index
from tests.index.made import described, publish, store_file


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
