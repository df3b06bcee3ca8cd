"""Small segments become larger ones while an index grows, and nothing else changes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import objemb.index.storage.files as files
import objemb.index.storage.joining as joining
from objemb.index.storage.joining import FANOUT, LARGE, first_to_join
from objemb.index.storage.manifest import read_manifest
from objemb.index.store import Index
from tests.index.made import described, new, same


def test_sixteen_of_a_tier_become_one_of_the_next() -> None:
    assert FANOUT == 16
    assert first_to_join([2] * 15, 0) == 15
    assert first_to_join([2] * 16, 0) == 0
    assert first_to_join([40] * 3 + [2] * 16, 0) == 3
    assert first_to_join([40] * 15 + [2] * 15, 0) == 30
    assert first_to_join([40] * 15 + [2] * 16, 0) == 0  # and what becomes of the small ones is the sixteenth
    assert first_to_join([300] * 16, 0) == 0


def test_what_is_large_or_before_the_first_is_left_alone() -> None:
    assert first_to_join([LARGE] * 40, 0) == 40
    assert first_to_join([2] * 30, 10) == 10
    assert first_to_join([2] * 30, 20) == 30
    assert first_to_join([2] * 10 + [LARGE] + [2] * 15, 0) == 26
    assert first_to_join([], 0) == 0


def test_thousands_of_publications_leave_few_segments_and_write_little() -> None:
    """The weights alone, of images with one region: two units of weight each."""
    weights: list[int] = []
    written = most = 0
    for _ in range(30_000):
        weights.append(2)
        first = first_to_join(weights[-200:], 0) + max(0, len(weights) - 200)
        if first < len(weights):
            written += sum(weights[first:])
            weights[first:] = [sum(weights[first:])]
        most = max(most, len(weights))
    assert sum(weights) == 60_000
    assert most <= 15 * 4 + 60_000 // (LARGE // 2) + 1
    assert written <= 5 * 60_000


def test_contents_and_searches_stay_as_they_are(tmp_path: Path) -> None:
    index = new(tmp_path / "i")
    choose, expected = random.Random(0), {}
    for step in range(70):
        with index.writer() as writer:
            name = str(choose.randrange(40))
            expected[name] = described(name, step, count=step % 4, step=step)
            writer.add(expected[name], stamp=str(step))
            if step % 9 == 8:
                gone = str(choose.randrange(40))
                writer.delete([gone])
                expected.pop(gone, None)
        assert len(index) == len(expected)
    assert len(index._snapshot.segments) < 2 * FANOUT
    assert index.verify() == []
    for opened in (index, Index.open(index.path)):
        assert {i.id for i in opened.images()} == set(expected)
        assert all(same(opened.get(name), image) for name, image in expected.items())
        assert opened.stamps() == {name: str(image.metadata["step"]) for name, image in expected.items()}
    flat = new(tmp_path / "flat", *expected.values())
    query = described("q", 999)
    found, wanted = ({h.image: h.score for h in i.search(query, 100)} for i in (index, flat))
    assert found == wanted
    assert index.compact()
    assert {h.image: h.score for h in index.search(query, 100)} == wanted


def test_what_the_approximate_structure_covers_is_left_alone(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    index = new(tmp_path / "i", *(described(f"{n}", n) for n in range(20)))
    index.build_structure()
    covered = index._snapshot.segments[0].record
    for n in range(20, 60):
        with index.writer() as writer:
            writer.add(described(f"{n}", n))
    assert index._snapshot.segments[0].record == covered
    assert len(index._snapshot.segments) < FANOUT + 3
    for n in (3, 33):
        query = described("q", n)
        assert index.search(query, 5, exact=False).hits == index.search(query, 5, exact=True).hits
    assert index.verify() == []


def test_a_damaged_segment_is_not_joined_and_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Copied, the damage would get a right checksum."""
    index = new(tmp_path / "i", described("0"))
    path = next(index.path.glob("*.vectors"))
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    for n in range(1, 20):
        with index.writer() as writer:
            writer.add(described(f"{n}", n))
    assert len(index) == 20
    assert "small segments are not joined" in caplog.text
    assert path.exists()
    assert path.name in " ".join(index.verify())
    needed = {f.name for f in read_manifest(index.path).files}
    assert {p.name for p in index.path.iterdir()} == needed | {"lock", "manifest"}
    with index.writer() as writer:
        writer.add(described("after", 50))
    assert same(index.get("after"), described("after", 50))


def test_an_index_of_many_small_segments_needs_no_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was written before segments were joined: a system allows some 65,000 maps a process."""
    monkeypatch.setattr(joining, "FANOUT", 1 << 10)
    index = new(tmp_path / "i")
    with index.writer() as writer:
        for n in range(30):
            writer.add(described(f"{n}", n))
            writer.commit()
    assert len(index._snapshot.segments) == 30
    monkeypatch.setattr(files.pa, "memory_map", lambda path: pytest.fail(f"{path} was mapped"))
    opened = Index.open(index.path)
    assert len(opened.search(described("q"), 50)) == 30
    monkeypatch.undo()
    with opened.writer() as writer:  # the next writer mends it
        writer.add(described("30", 30))
    assert len(opened._snapshot.segments) == 1
    assert opened.verify() == []
