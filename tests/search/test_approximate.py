"""When the structure for approximate search is built, and by which engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from objemb.index import searcher
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.store import Index
from objemb.search.approximate import build_approximate
from objemb.structures import RegionDescriptors, Regions
from tests.index.searching import unit_rows


def grown(index: Index, images: int, seed: int) -> Index:
    boxes = np.tile(np.array([[0, 0, 5, 5]], np.float32), (4, 1))
    with index.writer() as writer:
        for number in range(images):
            vectors = unit_rows(np.random.default_rng(1000 * seed + number), 4, 8)
            writer.add(RegionDescriptors(f"{seed}/{number}", Regions(boxes, (9, 9)), vectors))
    return index


def test_an_index_that_has_grown_keeps_its_engine_and_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    index = grown(Index.create(tmp_path / "i", schema=UnitVectors(8), fingerprint="a"), 30, 0)
    assert index.engine is None
    build_approximate(index)
    assert index.engine is None  # it is small
    monkeypatch.setattr(searcher, "APPROXIMATE_ROWS", 100)
    build_approximate(index)
    assert index.engine == {"name": "ivf_sq8", "lists": None, "seed": 0}
    chosen = {"name": "ivf_sq8", "lists": 3, "seed": 1}
    index.build_structure(chosen)
    build_approximate(index, {"name": "ivf_pq_fastscan"})  # nothing is new
    assert index.engine == chosen
    grown(index, 30, 1)
    notes: list[str] = []
    told: list[tuple[int, int]] = []
    build_approximate(index, on_note=notes.append, on_progress=lambda done, total: told.append((done, total)))
    assert index.engine == chosen
    assert index.info()["approximate_share"] == 1
    assert notes == ["building the structure for approximate search"]
    assert told[-1] == (10 * 240 + 240, 10 * 240 + 240)
