"""Compacting and merging."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import objemb.index.storage.joining as joining
from objemb.checks import ArtefactMismatchError, DamagedIndexError
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.store import Index
from tests.index.made import DIM, described, new, same


def filled(folder: Path, names: str, seed: int = 0, dtype: str = "float32") -> Index:
    """One image per letter, one segment each."""
    index = new(folder, dtype=dtype)
    with index.writer(flush_rows=1) as writer:
        for n, name in enumerate(names):
            writer.add(described(name, seed + n, count=n % 4, origin=folder.name), stamp=f"{seed}")
    return index


def test_compact_keeps_the_contents_and_drops_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "CHUNK_ROWS", 3)
    index = filled(tmp_path / "i", "abcdefghij")
    index.delete("bdj")
    before = index.search(described("q", 77), 10)
    listed = list(index.images())
    size = index.info()["bytes"]
    assert index.compact() is True
    info = index.info()
    assert (info["segments"], info["images"], info["deleted_share"]) == (1, 7, 0.0)
    assert info["bytes"] < size
    assert list(index.images()) == listed
    assert index.search(described("q", 77), 10) == before
    assert index.verify() == []
    assert len(list(index.path.iterdir())) == 5
    assert index.compact() is False
    assert all(
        same(index.get(n), described(n, "abcdefghij".index(n), "abcdefghij".index(n) % 4, origin="i")) for n in "ac"
    )


def test_progress_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "CHUNK_ROWS", 3)
    index, other = filled(tmp_path / "i", "abcdefghij"), filled(tmp_path / "j", "klm")
    index.delete("bdj")
    steps: list[int] = []
    assert index.compact(on_images=steps.append)
    assert (sum(steps), len(steps) > 1) == (7, True)
    steps.clear()
    index.merge([other], on_images=steps.append)
    assert sum(steps) == 3


def test_compact_leaves_large_whole_segments_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = new(tmp_path / "i", *(described(f"{n}", n) for n in range(10)))
    with index.writer(flush_rows=1) as writer:
        for name in "abc":
            writer.add(described(name))
    monkeypatch.setattr(UnitVectors, "most_rows", 60)
    first = index._snapshot.segments[0].record
    assert index.compact() is True
    assert index._snapshot.segments[0].record == first
    assert [s.record.images for s in index._snapshot.segments] == [10, 3]
    index.delete(["5"])
    assert index.compact() is True
    assert first not in [s.record for s in index._snapshot.segments]
    assert index.verify() == []


def test_compact_splits_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UnitVectors, "most_rows", 16)
    monkeypatch.setattr(joining, "CHUNK_ROWS", 4)
    index = new(tmp_path / "i", *(described(f"{n}", n) for n in range(12)))
    index.delete(["0"])
    index.compact()
    assert [s.record.images for s in index._snapshot.segments] == [4, 4, 3]
    assert index.verify() == []


def test_compact_of_a_wholly_deleted_index(tmp_path: Path) -> None:
    index = filled(tmp_path / "i", "abc")
    index.delete("abc")
    assert index.compact() is True
    assert index.info()["segments"] == 0
    assert index.verify() == []
    with index.writer() as writer:
        writer.add(described("a"))
    assert [int(n) for s in index._snapshot.segments for n in s.numbers] == [3]


def test_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "CHUNK_ROWS", 3)
    index, left, right = filled(tmp_path / "i", "ab"), filled(tmp_path / "l", "cdef", 10), filled(tmp_path / "r", "gh")
    left.delete("d")
    index.merge([left, right.path])
    assert [i.id for i in index.images()] == list("abcefgh")
    assert same(index.get("e"), described("e", 12, count=2, origin="l"))
    assert index.stamps()["e"] == "10"
    assert index.verify() == []
    assert len(left) == 3
    assert index.search(described("q", 12), 1)[0].image == "e"


@pytest.mark.parametrize(("policy", "origin"), [("replace", "other"), ("keep", "i")])
def test_merge_with_ids_in_both(tmp_path: Path, policy: str, origin: str) -> None:
    index, other = filled(tmp_path / "i", "abc"), filled(tmp_path / "other", "bcd", 10)
    index.merge([other], on_collision=policy)
    assert {i.id: i.metadata["origin"] for i in index.images()} == {"a": "i", "b": origin, "c": origin, "d": "other"}
    assert index.verify() == []


def test_merge_refuses_collisions_and_stays_as_it_was(tmp_path: Path) -> None:
    index, other = filled(tmp_path / "i", "abc"), filled(tmp_path / "other", "xyb")
    files = sorted(index.path.iterdir())
    with pytest.raises(ValueError, match="found 'b' in both"):
        index.merge([other])
    assert [i.id for i in index.images()] == list("abc")
    assert sorted(index.path.iterdir()) == files
    with pytest.raises(ValueError, match="'error', 'replace', 'keep'"):
        index.merge([other], on_collision="ignore")
    with pytest.raises(ValueError, match="in both"):
        index.merge([filled(tmp_path / "x", "x"), filled(tmp_path / "x2", "x")])


def test_merge_refuses_other_models(tmp_path: Path) -> None:
    index = filled(tmp_path / "i", "a")
    other = Index.create(tmp_path / "m", schema=UnitVectors(DIM), fingerprint="model-b")
    with pytest.raises(ArtefactMismatchError, match=r"fingerprint 'model-a', found 'model-b'"):
        index.merge([other])
    longer = Index.create(tmp_path / "d", schema=UnitVectors(9), fingerprint="model-a")
    with pytest.raises(ArtefactMismatchError, match="dim 8, found 9"):
        index.merge([longer])


def test_merge_converts_the_number_type(tmp_path: Path) -> None:
    half, whole = filled(tmp_path / "h", "ab", dtype="float16"), filled(tmp_path / "w", "cd")
    half.merge([whole])
    assert half.verify() == []
    assert torch.as_tensor(half.get("d").vectors).equal(
        torch.as_tensor(described("d", 1, count=1).vectors).half().float()
    )


def test_damage_is_not_copied(tmp_path: Path) -> None:
    """Rewritten, it would get a new checksum that hides it."""
    index = new(tmp_path / "i", described("a"), described("b"))
    index.delete(["a"])
    path = next(index.path.glob("*.vectors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedIndexError, match=path.name):
        index.compact()
    with pytest.raises(DamagedIndexError, match=path.name):
        new(tmp_path / "other").merge([index.path])
    assert len(Index.open(index.path)) == 1
