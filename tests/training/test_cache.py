from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from objemb.structures import Photo, Regions
from objemb.training.cache import VectorCache
from tests.tiny import random_photo

PHOTO = random_photo(20, 30, id="a")
BOXES = Regions(torch.tensor([[1.0, 2, 10, 12], [3, 4, 30, 20]]), PHOTO.size)
VECTORS = torch.tensor([[1.0, 2, 3], [4, 5, 6]])


def cache(folder: Path | None = None, **options: Any) -> VectorCache:
    return VectorCache("f" * 64, 3, folder, **options)


def same(found: Tensor | None) -> bool:
    return found is not None and torch.equal(found, VECTORS)


@pytest.mark.parametrize("on_disk", [False, True])
def test_what_was_put_is_found(on_disk: bool, tmp_path: Path) -> None:
    kept = cache(tmp_path if on_disk else None)
    assert kept.get(PHOTO, BOXES) is None
    kept.put(PHOTO, BOXES, VECTORS)
    assert same(kept.get(PHOTO, BOXES))
    assert any(tmp_path.rglob("*.safetensors")) == on_disk


def test_another_process_finds_it_on_disk(tmp_path: Path) -> None:
    cache(tmp_path).put(PHOTO, BOXES, VECTORS)
    assert same(cache(tmp_path).get(PHOTO, BOXES))
    assert VectorCache("e" * 64, 3, tmp_path).get(PHOTO, BOXES) is None, "another teacher"
    assert VectorCache("f" * 64, 4, tmp_path).get(PHOTO, BOXES) is None, "another length"


def test_a_photo_that_changed_under_its_name_finds_nothing(tmp_path: Path) -> None:
    kept = cache(tmp_path)
    kept.put(PHOTO, BOXES, VECTORS)
    pixels = PHOTO.pixels.copy()
    pixels[0, 0, 0] ^= 1
    assert kept.get(Photo("a", pixels, PHOTO.size), BOXES) is None
    assert kept.get(Photo("b", PHOTO.pixels, PHOTO.size), BOXES) is None
    assert kept.get(PHOTO, BOXES[:1]) is None
    assert kept.get(PHOTO, BOXES[[1, 0]]) is None
    larger = Photo("a", PHOTO.pixels, (40, 60))
    assert kept.get(larger, Regions(BOXES.boxes, larger.size)) is None, "the frame of the boxes is another"


@pytest.mark.parametrize("damage", [b"", b"no safetensors", None])
def test_damage_counts_as_absent(damage: bytes | None, tmp_path: Path) -> None:
    cache(tmp_path).put(PHOTO, BOXES, VECTORS)
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-5] if damage is None else damage)
    kept = cache(tmp_path)
    assert kept.get(PHOTO, BOXES) is None
    kept.put(PHOTO, BOXES, VECTORS)
    assert same(cache(tmp_path).get(PHOTO, BOXES))


def test_the_oldest_are_dropped_from_memory() -> None:
    kept = cache(capacity=4)
    photos = [random_photo(20, 30, seed=n, id=str(n)) for n in range(3)]
    for photo in photos[:2]:
        kept.put(photo, BOXES, VECTORS)
    kept.put(photos[0], BOXES, VECTORS)
    kept.put(photos[2], BOXES, VECTORS)
    assert [kept.get(p, BOXES) is None for p in photos] == [False, True, False]
    kept.put(photos[1], Regions(np.tile(BOXES.boxes, (5, 1)), PHOTO.size), VECTORS.repeat(5, 1))
    assert [kept.get(p, BOXES) is None for p in photos] == [True] * 3


def test_a_full_disk_costs_the_disk_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    kept = cache(tmp_path)
    monkeypatch.setattr(os, "replace", full)
    with caplog.at_level(logging.WARNING):
        kept.put(PHOTO, BOXES, VECTORS)
        kept.put(random_photo(20, 30, seed=1), BOXES, VECTORS)
    assert same(kept.get(PHOTO, BOXES))
    assert [r.getMessage().count("No space left") for r in caplog.records] == [1]
    assert not [p for p in tmp_path.rglob("*") if p.is_file()], "nothing half written is left"


def test_vectors_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected shape \(2, 3\), found \(1, 3\)"):
        cache().put(PHOTO, BOXES, VECTORS[:1])
