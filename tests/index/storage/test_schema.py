"""The schema of unit vectors, and the storage with rows of another kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from objemb.checks import ArtefactMismatchError, DamagedIndexError
from objemb.index.storage import manifest
from objemb.index.storage.manifest import Manifest, now, read_manifest, schema_from_json
from objemb.index.storage.publish import create
from objemb.index.storage.rewrite import compact
from objemb.index.storage.schema import AsTheyCome, Columns
from objemb.index.storage.snapshot import Snapshot
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.storage.verify import verify
from objemb.index.storage.writer import Writer
from objemb.structures import Described, RegionDescriptors
from objemb.types import BoolArray
from tests.index.made import described, publish, store_file


@dataclass(frozen=True)
class LargeColumns(UnitVectors):
    """The numbers of the columns of a vector that are above a limit: rows of different lengths."""

    name = "large_columns"
    columns = ("counts", "words")

    limit: float = 0.3

    def encode(self, described: Described) -> Columns:
        assert isinstance(described, RegionDescriptors)
        large = np.asarray(described.vectors) > self.limit
        return {"counts": large.sum(axis=1).astype("<i4"), "words": np.nonzero(large)[1].astype("<i4")}

    def sorter(self) -> AsTheyCome:
        return AsTheyCome(lambda columns: columns)

    def check_sizes(self, rows: int, sizes: Mapping[str, int]) -> None:
        if sizes["counts"] != 4 * rows or sizes["words"] % 4:
            raise ValueError(f"counts: expected {rows} rows, found {sizes['counts']} bytes")

    def decode(self, content: Mapping[str, Any], rows: int) -> Columns:
        return {name: np.frombuffer(content[name], "<i4") for name in self.columns}

    def select(self, columns: Columns, first: int, kept: BoolArray) -> Columns:
        counts = columns["counts"][first : first + len(kept)]
        start = int(columns["counts"][:first].sum())
        words = columns["words"][start : start + int(counts.sum())]
        return {"counts": counts[kept], "words": words[np.repeat(kept, counts)]}

    def problems(self, columns: Columns, on_bytes: Callable[[int], None]) -> Iterator[str]:
        if columns["counts"].sum() != len(columns["words"]):
            yield f"expected {columns['counts'].sum()} words, found {len(columns['words'])}"
        on_bytes(columns["counts"].nbytes + columns["words"].nbytes)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index of rows of another kind: three segments, an image that was replaced and one that was deleted."""
    monkeypatch.setitem(manifest.SCHEMAS, LargeColumns.name, LargeColumns)
    made = tmp_path / "words"
    create(made, Manifest(LargeColumns(8), "model-a", None, created=now(), updated=now()))
    for part in range(3):
        with Writer(made, read_manifest(made), 1000, lambda: None) as writer:
            for n in range(4 * part, 4 * part + 4):
                writer.add(described(f"{n}", n, count=n % 4))
    with Writer(made, read_manifest(made), 1000, lambda: None) as writer:
        writer.add(described("2", 50))
        writer.delete(["5"])
    return made


def rows_of(folder: Path) -> dict[str, list[list[int]]]:
    """The words of every row of every live image."""
    stored = {}
    snapshot = Snapshot.load(folder)
    for segment, live in zip(snapshot.segments, snapshot.live, strict=True):
        rows = (
            np.split(segment.columns["words"], np.cumsum(segment.columns["counts"])[:-1]) if len(segment.rows) else []
        )
        for image in range(segment.record.images):
            if live is None or live[image]:
                start, stop = segment.starts[image : image + 2]
                stored[segment.image_id(image)] = [r.tolist() for r in rows[start:stop]]
    return stored


def expected() -> dict[str, list[list[int]]]:
    seeds = {f"{n}": (n, n % 4) for n in range(12) if n != 5} | {"2": (50, 3)}
    vectors = {name: np.asarray(described(name, *seed).vectors) for name, seed in seeds.items()}
    return {name: [np.flatnonzero(row > 0.3).tolist() for row in rows] for name, rows in vectors.items()}


def test_rows_of_another_kind_are_written_verified_and_compacted(folder: Path) -> None:
    assert rows_of(folder) == expected()
    assert read_manifest(folder).schema == LargeColumns(8, limit=0.3)
    assert {p.suffix for p in folder.iterdir()} == {"", ".counts", ".words", ".rows", ".images", ".deleted"}
    assert verify(folder) == []
    assert compact(folder, read_manifest(folder))
    assert rows_of(folder) == expected()
    assert verify(folder) == []
    assert sorted(p.suffix for p in folder.iterdir()) == ["", "", ".counts", ".images", ".rows", ".words"]


def test_small_segments_of_another_kind_are_joined(folder: Path) -> None:
    for n in range(20, 40):
        with Writer(folder, read_manifest(folder), 1000, lambda: None) as writer:
            writer.add(described(f"{n}", n, count=1))
    assert len(read_manifest(folder).segments) < 16
    rows = rows_of(folder)
    assert {name: rows[name] for name in expected()} == expected()
    assert len(rows) == 31
    assert verify(folder) == []


def test_damaged_rows_of_another_kind_are_found(folder: Path) -> None:
    path = folder / "00000001.words"
    original = path.read_bytes()
    path.write_bytes(original[:-1] + b"\x7f")
    assert "00000001.words: expected SHA-256" in verify(folder)[0]
    with pytest.raises(DamagedIndexError, match=r"00000001\.words: expected SHA-256"):
        compact(folder, read_manifest(folder))
    path.write_bytes(original)
    manifest = replace(read_manifest(folder), next_file=1000)
    segment = manifest.segments[0]
    forged = store_file(folder, "00000500.words", original + b"\0\0\0\0")
    publish(folder, replace(manifest, segments=(replace(segment, files={**segment.files, "words": forged}),)))
    assert "words, found" in verify(folder)[0]


def test_cleaning_takes_files_of_an_index_only(folder: Path) -> None:
    """What is numbered like a file of an index may be somebody's photo of that day."""
    for name in ("20260101.jpg", "20260101.words", "20260101.vectors"):
        (folder / name).write_bytes(b"x")
    compact(folder, read_manifest(folder))
    assert (folder / "20260101.jpg").exists()
    assert not list(folder.glob("20260101.[wv]*"))


def test_schemas_as_json() -> None:
    schema = UnitVectors(8, "float16")
    assert schema.to_json() == {"name": "unit_vectors", "dim": 8, "dtype": "float16"}
    assert schema_from_json(schema.to_json()) == schema
    for wrong in ({"name": "x"}, {"name": "unit_vectors"}, {"dim": 3}, {"name": "unit_vectors", "dim": 3, "more": 1}):
        with pytest.raises((ValueError, TypeError, KeyError)):
            schema_from_json(wrong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "dim: expected an integer of 1 or more, found 0"),
        ((1 << 25,), "dim: expected a number from 1 to"),
        ((8, "float64"), "dtype: expected one of 'float32', 'float16', found 'float64'"),
    ],
)
def test_what_no_unit_vectors_are(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UnitVectors(*arguments)


def test_unit_vectors_are_stored_in_their_number_type() -> None:
    half, image = UnitVectors(8, "float16"), described("a", 1)
    columns = half.encode(image)
    assert columns["vectors"].dtype == np.float16
    assert (
        half.sorter().add({"vectors": np.asarray(image.vectors)})["vectors"].tobytes() == columns["vectors"].tobytes()
    )
    with pytest.raises(ArtefactMismatchError, match="image 'a': expected vectors of dimension 5, found 8"):
        UnitVectors(5).encode(image)
    long = RegionDescriptors("long", image.regions, 2 * image.vectors)
    with pytest.raises(ValueError, match="vectors of 'long': expected rows of unit length"):
        half.encode(long)
