"""The compact map from ids to numbers behaves as a dict does."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import objemb.index.storage.id_map as id_map
from objemb.index.storage.id_map import IdMap
from tests.index.made import described, new


def test_equals_a_dict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(id_map, "OVERLAY", 7)
    rng, found, expected = random.Random(0), IdMap(), {}
    for number in range(3000):
        key = str(rng.randrange(400)).encode()
        if rng.random() < 0.3:
            assert found.remove(key) == expected.pop(key, None)
        else:
            assert found.put(key, number) == expected.get(key)
            expected[key] = number
    for n in range(400):
        key = str(n).encode()
        assert found.get(key) == expected.get(key)
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
