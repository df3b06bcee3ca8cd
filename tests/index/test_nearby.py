"""Searches that are close to an earlier one give the results of searching all rows."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest

from objemb.index import nearby
from objemb.index.engines import exact
from objemb.index.engines.exact import ExactSearch, search_exact
from objemb.index.nearby import Scan, kept_scan, searching_nearby
from objemb.index.storage.blocks import VectorBlock
from objemb.ops.scored_pairs import GroupedHits
from objemb.rerank._expansion import unit_rows
from objemb.types import Float32Array


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small indexes are searched as large ones, whose clusters are a smaller part of them."""
    monkeypatch.setattr(nearby, "KEPT", 1 / 8)
    monkeypatch.setattr(exact, "MIN_CODES", 1)
    monkeypatch.setattr(exact, "SCORES_PER_CHUNK", 1000)  # several chunks


def collection(dtype: type[np.floating] = np.float32) -> tuple[list[VectorBlock], Float32Array]:
    """Two blocks of clusters, some rows of them dead, some of them zero, and a row of each cluster."""
    random = np.random.default_rng(0)
    centres = unit_rows(random.standard_normal((40, 24)).astype(np.float32))
    rows = np.repeat(centres, 50, axis=0) + 0.12 * random.standard_normal((2000, 24)).astype(np.float32)
    rows = unit_rows(rows)[random.permutation(2000)]
    rows[::97] = 0
    images, alive = np.arange(2000) // 4, random.random(800) < 0.8
    stored = rows.astype(dtype)
    return [VectorBlock(stored[:1200], images[:1200]), VectorBlock(stored[1200:], images[1200:], alive)], centres


def equal(left: GroupedHits, right: GroupedHits) -> bool:
    return all(map(np.array_equal, astuple(left), astuple(right)))


def restricted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of rows of the searches that do not read all; filled as they are made."""
    found: list[int] = []
    plain = exact.search_exact

    def watched(*args: object, **kwargs: object) -> GroupedHits:
        if kwargs.get("among") is not None:
            found.append(sum(map(len, kwargs["among"])))  # type: ignore[call-overload]  # any keyword
        return plain(*args, **kwargs)  # type: ignore[arg-type]  # whatever a search takes

    monkeypatch.setattr(exact, "search_exact", watched)
    return found


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("warm", [0, exact.ENCODE_AFTER])
def test_results_are_those_of_all_rows(monkeypatch: pytest.MonkeyPatch, dtype: type[np.floating], warm: int) -> None:
    """With and without codes, for queries of one and more rows, near the earlier ones and far from them."""
    blocks, centres = collection(dtype)
    search, random = ExactSearch(), np.random.default_rng(1)
    for _ in range(warm):
        search.search(centres[:1], np.array([0]), 5, blocks)
    found = restricted(monkeypatch)
    searches = 0
    for groups, k in ((np.array([0]), 5), (np.array([0, 0, 1]), 3), (np.array([1, 2]), 8)):
        for away in (0.0, 0.02, 0.3, 3.0):
            for scale in (1.0, 0.6):
                rows = unit_rows(centres[random.integers(40, size=len(groups))] + np.float32(0.05))
                step = away * random.standard_normal(rows.shape).astype(np.float32)
                close = np.float32(scale) * unit_rows(rows + step)
                with searching_nearby():
                    first = search.search(rows, groups, k, blocks)
                    second = search.search(close, groups, k, blocks)
                assert equal(first, search_exact(blocks, rows, groups, k))
                assert equal(second, search_exact(blocks, close, groups, k))
                searches += 1
    assert searches // 3 <= len(found) < searches


def test_rows_left_out_score_less() -> None:
    """Whatever the angle, no row that reaches the k-th best score is left out, however long the new query is."""
    blocks, centres = collection()
    random = np.random.default_rng(2)
    told = 0
    for away in np.linspace(0, 0.4, 40):
        query = centres[random.integers(40)][None]
        scan = Scan(blocks, query, 4)
        search_exact(blocks, query, np.array([0]), 4, scan=scan)
        near = np.float32(random.uniform(0.1, 2)) * (query + away * random.standard_normal(query.shape)).astype(
            np.float32
        )
        rows = scan.rows_for(near, np.array([0]), 4)
        if rows is None:
            continue
        told += 1
        least = search_exact(blocks, near, np.array([0]), 4).scores[0, -1]
        for block, kept in zip(blocks, rows, strict=True):
            scores = block.vectors @ near[0]
            scores[kept] = -np.inf
            assert (scores[slice(None) if block.alive is None else block.alive] < least).all()
    assert told > 5


def test_nothing_is_kept_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of the block, for other rows, where nearly all rows score the same, and for a deeper search."""
    blocks, centres = collection()
    found, search, one = restricted(monkeypatch), ExactSearch(), np.array([0])
    search.search(centres[:1], one, 5, blocks)
    assert kept_scan(blocks) is None
    with searching_nearby():
        search.search(centres[:1], one, 5, blocks)
        scan = kept_scan(blocks)
        assert scan is not None
        assert kept_scan(blocks[:1]) is None
        assert kept_scan([blocks[0], blocks[1].among(np.ones(800, bool))]) is None
        assert scan.rows_for(centres[:1], one, 6) is None
        assert scan.rows_for(centres[:1] * 0, one, 5) is None
        assert not found
        search.search(centres[:1], one, 5, blocks)
        assert len(found) == 1
        alike = [VectorBlock(np.repeat(centres[:1], 2000, axis=0), np.arange(2000))]
        for _ in range(2):
            search.search(centres[:1], one, 5, alike)
        assert len(found) == 1
    assert kept_scan(blocks) is None
