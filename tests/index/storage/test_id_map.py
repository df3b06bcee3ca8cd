"""The compact map from ids to numbers behaves as a dict does."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import objemb.index.storage.id_map as id_map
from objemb.index.storage.id_map import IdMap
from tests.index.made import described, new


@pytest.mark.parametrize("published", [0, 250])
@pytest.mark.parametrize("most", [7, 10_000])
def test_equals_a_dict(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, published: int, most: int) -> None:
    """Over an index in two segments with deleted images, whose ids are digested early, late or never."""
    monkeypatch.setattr(id_map, "OVERLAY", most)
    index = new(tmp_path / "i", *(described(str(n)) for n in range(published // 2)))
    with index.writer() as writer:
        for n in range(published // 2, published):
            writer.add(described(str(n)))
    index.delete([str(n) for n in range(0, published, 5)])
    rng, found = random.Random(0), IdMap.of(index._snapshot)
    expected = {str(n).encode(): n for n in range(published) if n % 5}
    replaced: list[int] = []
    for number in range(1000, 4000):
        key = str(rng.randrange(400)).encode()
        action = rng.random()
        if number > 1500 and action < 0.3:
            before = expected.pop(key, None)
            assert found.remove(key) == (before is not None)
        else:
            before = expected.get(key)
            found.put(key, number)
            expected[key] = number
        replaced += [] if before is None else [before]
        if action > 0.9:
            assert sorted(found.take_replaced()) == sorted(replaced)
            replaced = []
    assert sorted(found.take_replaced()) == sorted(replaced)
    assert found.take_replaced() == []
    for n in range(400):
        key = str(n).encode()
        assert found.get(key) == expected.get(key)


def test_what_is_asked_for_late(tmp_path: Path) -> None:
    index = new(tmp_path / "i", described("a"), described("b"))
    found = IdMap.of(index._snapshot)
    found.put(b"a", 7)
    found.put(b"c", 8)
    found.put(b"a", 9)
    assert [found.get(key) for key in (b"a", b"b", b"c", b"d")] == [9, 1, 8, None]
    assert found.take_replaced() == [7, 0]
    assert found.duplicates() == 0


def test_digests_with_zeros_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy drops them; they must still be found."""
    keys = [n for n in range(3000) if not id_map._key(str(n).encode())[15:]]
    assert keys
    found = IdMap()
    monkeypatch.setattr(id_map, "OVERLAY", 1)
    for n in keys:
        found.put(str(n).encode(), n)
    assert [found.get(str(n).encode()) for n in keys] == keys


def test_of_an_index_counts_live_images_only(tmp_path: Path) -> None:
    index = new(tmp_path / "i", described("a"), described("b"), described("c"))
    index.delete(["b"])
    found = IdMap.of(index._snapshot)
    assert [found.get(k) for k in (b"a", b"b", b"c")] == [0, None, 2]
