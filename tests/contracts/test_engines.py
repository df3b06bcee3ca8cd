"""Every engine of an index keeps to the contract of its kind."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from objemb import registry
from objemb.index.engines.base import Engine, Structure
from objemb.index.storage.manifest import SCHEMAS
from objemb.index.structures import DEFAULT_ENGINE, engine_named
from objemb.ops.scored_pairs import NO_HIT
from tests.contracts.made import build
from tests.index.galleries import GALLERIES, Gallery
from tests.index.rabitq import NEEDS_RABITQ
from tests.index.searching import assert_same

#: What an engine needs that is not always installed.
NEEDS = dict.fromkeys(("ivf_sq8", "ivf_pq", "ivf_pq_fastscan", "ivf_rabitq"), "faiss")


@pytest.fixture(
    params=[
        pytest.param(name, marks=NEEDS_RABITQ) if name == "ivf_rabitq" else name
        for name in registry.names(Engine.kind)
        if registry.origin(Engine.kind, name) is None
    ]
)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    if request.param in NEEDS:
        pytest.importorskip(NEEDS[request.param])
    built: Engine = build(Engine.kind, request.param, tmp_path)
    return built


@pytest.fixture
def gallery(engine: Engine) -> Gallery:
    """Rows that the engine accepts."""
    return GALLERIES[min(engine.accepts)]()


def files_of(structure: Structure) -> Mapping[str, bytes]:
    files: dict[str, io.BytesIO] = {}

    def create(name: str) -> io.BytesIO:
        assert name not in files
        return files.setdefault(name, io.BytesIO())

    structure.write(create)  # type: ignore[arg-type]
    return {name: file.getvalue() for name, file in files.items()}


def test_what_it_says_of_itself(engine: Engine) -> None:
    assert engine.accepts
    assert engine.accepts <= set(SCHEMAS)
    assert isinstance(engine.exact, bool)
    for schema in SCHEMAS.values():
        searches = engine_named(schema.engine)
        assert searches.exact
        assert schema.name in searches.accepts
    assert DEFAULT_ENGINE in registry.names(Engine.kind)


def test_what_is_read_again_finds_the_same(engine: Engine, gallery: Gallery) -> None:
    blocks, queries = gallery.blocks, gallery.queries(30, 1)
    groups = np.repeat(np.arange(12), [1, 4, 0, 2, 3, 2, 3, 3, 3, 3, 3, 3])
    built = engine.build(blocks)
    hits = built.search(queries, groups, 7, blocks, count=14)
    assert len(hits) == 14
    assert (hits.images[[2, 12, 13]] == NO_HIT).all()
    loaded = engine.load(files_of(built))
    assert_same(loaded.search(queries, groups, 7, blocks, count=14), hits)
    assert loaded.covered == built.covered
    assert built.covered in (None, sum(map(len, blocks)))
    assert loaded.dim == built.dim
    assert built.dim in (None, gallery.dim)


def test_progress_of_building_grows_to_its_end(engine: Engine, gallery: Gallery) -> None:
    told: list[tuple[int, int]] = []
    engine.build(gallery.blocks, lambda done, total: told.append((done, total)))
    assert engine.exact or len(told) > 1
    assert len({total for _, total in told}) <= 1
    assert told == sorted(told)
    assert all(0 < done <= total for done, total in told)
    assert all(done == total for done, total in told[-1:])


def test_scores_are_exact_and_rows_alive(engine: Engine, gallery: Gallery) -> None:
    queries, groups, images = gallery.queries(30, 2), np.arange(30) // 2, gallery.images()
    hits = engine.build(gallery.blocks).search(queries, groups, 9, gallery.blocks)
    alive = np.flatnonzero(gallery.alive())
    assert (hits.images != NO_HIT).all()  # there are more images than are asked for
    assert np.isin(hits.rows, alive).all()
    np.testing.assert_array_equal(images[hits.rows], hits.images)
    scores = [gallery.score(r, queries, q) for r, q in zip(hits.rows.flat, hits.query_rows.flat, strict=True)]
    np.testing.assert_allclose(hits.scores.ravel(), scores, rtol=0, atol=1e-6)
    assert (np.diff(hits.scores, axis=1) <= 0).all()
    assert all(len(set(row)) == 9 for row in hits.images.tolist())
    best = [max(gallery.score(r, queries, q) for r in alive for q in np.flatnonzero(groups == g)) for g in range(4)]
    found = np.abs(hits.scores[:4, 0] - best) <= 1e-6
    assert found.all() if engine.exact else found.mean() >= 0.5


def test_which_rows_are_alive_may_change(engine: Engine, gallery: Gallery) -> None:
    blocks, group = gallery.blocks, np.array([0])
    structure, query = engine.build(blocks), gallery.one_of(0)
    best = int(structure.search(query, group, 1, blocks).images[0, 0])
    assert best in blocks[1].images
    without = [blocks[0], blocks[1].among(blocks[1].images != best)]
    assert best not in structure.search(query, group, 200, without).images
    none = [b.among(np.zeros(len(b), bool)) for b in blocks]
    assert (structure.search(query, group, 3, none).images == NO_HIT).all()
    assert structure.search(query, group, 1, blocks).images[0, 0] == best


def test_more_images_than_there_are(engine: Engine, gallery: Gallery) -> None:
    query, group = gallery.one_of(0), np.array([0])
    hits = engine.build(gallery.blocks).search(query, group, 400, gallery.blocks)
    scores = [gallery.score(int(row), query, 0) for row in np.flatnonzero(gallery.alive())]
    images = gallery.images()[gallery.alive()]
    expected = [max(s for s, i in zip(scores, images, strict=True) if i == image) for image in np.unique(images)]
    best = sorted((s for s in expected if s != 0), reverse=True)  # of words, those that have one in common
    there = hits.images[0] != NO_HIT
    assert there.sum() == len(best)
    np.testing.assert_allclose(hits.scores[0, there], best, rtol=0, atol=1e-6)


def test_wrong_arguments(engine: Engine, gallery: Gallery) -> None:
    structure, queries = engine.build(gallery.blocks), gallery.queries(2, 0)
    for asked, groups, k, message in (
        (gallery.wrong_queries(), [0], 1, "queries: expected"),
        (queries, [0, 0], 0, "k: expected at least 1, found 0"),
        (queries, [1, 0], 1, "non-decreasing"),
    ):
        with pytest.raises(ValueError, match=message):
            structure.search(asked, np.array(groups), k, gallery.blocks)
