from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from objemb.evaluation.cache import CARD, LARGE, ArrayCache, key_of, photo_facts

KEY = key_of({"method": "mac"})
ARRAYS = {"vectors": np.arange(6, dtype=np.float32).reshape(2, 3), "items": np.array([0, 4]), "none": np.zeros((0, 4))}


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, notes: list[str]) -> ArrayCache:
    return ArrayCache(tmp_path / "new" / "cache", notes.append)


def test_what_was_stored_is_found_again(cache: ArrayCache, notes: list[str]) -> None:
    assert cache.load(KEY) is None
    cache.store(KEY, ARRAYS, {"seconds": 1.5, "problems": ["é"]})
    found = cache.load(KEY)
    assert found is not None
    assert {name: array.tolist() for name, array in found.arrays.items()} == {n: a.tolist() for n, a in ARRAYS.items()}
    assert found.arrays["none"].shape == (0, 4)
    assert found.about == {"seconds": 1.5, "problems": ["é"]}
    assert cache.load(key_of({"method": "rmac"})) is None
    assert [p.name for p in cache.folder.iterdir()] == [KEY]
    assert notes == []


def test_large_arrays_stay_in_their_file(cache: ArrayCache) -> None:
    cache.store(KEY, {"vectors": np.ones(LARGE // 4, np.float32)}, {})
    found = cache.load(KEY)
    assert found is not None
    assert isinstance(found.arrays["vectors"], np.memmap)


def test_the_first_of_two_that_store_the_same_stays(cache: ArrayCache) -> None:
    cache.store(KEY, ARRAYS, {"who": "first"})
    cache.store(KEY, ARRAYS, {"who": "second"})
    found = cache.load(KEY)
    assert found is not None
    assert found.about == {"who": "first"}
    assert [p.name for p in cache.folder.iterdir()] == [KEY]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (CARD, b""),
        (CARD, b"[1, 2]"),
        (CARD, b'{"format": "objemb-cache", "format_version": 99, "about": {}, "sha256": {}}'),
        (CARD, b"[" * 100_000),
        ("vectors.npy", b"half"),
        ("vectors.npy", None),
    ],
)
def test_a_damaged_entry_is_reported_and_removed(
    cache: ArrayCache, notes: list[str], file: str, content: bytes | None
) -> None:
    cache.store(KEY, ARRAYS, {})
    place = cache.folder / KEY / file
    place.unlink() if content is None else place.write_bytes(content)
    assert cache.load(KEY) is None
    assert len(notes) == 1
    assert "damaged" in notes[0]
    assert list(cache.folder.iterdir()) == []
    cache.store(KEY, ARRAYS, {})
    assert cache.load(KEY) is not None


def test_a_file_in_the_place_of_an_entry_is_removed(cache: ArrayCache, notes: list[str]) -> None:
    cache.folder.mkdir(parents=True)
    (cache.folder / KEY).write_text("no folder")
    assert cache.load(KEY) is None
    assert list(cache.folder.iterdir()) == []


def test_an_interrupted_store_leaves_nothing_that_could_be_found(cache: ArrayCache) -> None:
    with pytest.raises(ValueError, match="pickle"):
        cache.store(KEY, {"ok": np.zeros(2), "bad": np.array([object()])}, {})
    assert list(cache.folder.iterdir()) == []
    with pytest.raises(ValueError, match="JSON"):
        cache.store(KEY, ARRAYS, {"seconds": float("nan")})
    assert list(cache.folder.iterdir()) == []


def test_keys_depend_on_content_and_not_on_order() -> None:
    assert key_of({"a": 1, "b": [2.5, None]}) == key_of({"b": [2.5, None], "a": 1})
    assert key_of({"a": 1}) != key_of({"a": 2})
    assert len(KEY) == 64


def test_photo_facts_change_with_size_and_time(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    missing = photo_facts([file])
    file.write_bytes(b"12")
    os.utime(file, ns=(0, 1_000_000_000))
    first = photo_facts([file])
    os.utime(file, ns=(0, 2_000_000_000))
    later = photo_facts([file])
    file.write_bytes(b"123")
    os.utime(file, ns=(0, 1_000_000_000))
    assert len({missing, first, later, photo_facts([file]), photo_facts([])}) == 5
