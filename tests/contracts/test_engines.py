"""Every engine of an index keeps to the contract of its kind."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from objemb import registry
from objemb.index.blocks import NO_HIT, VectorBlock
from objemb.index.engines.base import Engine, Structure
from objemb.index.engines.exact import search_exact
from objemb.index.storage.schemas import SCHEMAS
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.structures import DEFAULT_ENGINE, engine_named
from tests.contracts.made import build
from tests.index.searching import assert_same, unit_rows

DIM = 16
#: What an engine needs that is not always installed.
NEEDS = {"ivf_sq8": "faiss", "ivf_pq": "faiss"}


@pytest.fixture(params=[n for n in registry.names(Engine.kind) if registry.origin(Engine.kind, n) is None])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    if request.param in NEEDS:
        pytest.importorskip(NEEDS[request.param])
    built: Engine = build(Engine.kind, request.param, tmp_path)
    return built


@pytest.fixture
def vector_engine(engine: Engine) -> Engine:
    if UnitVectors.name not in engine.accepts:
        pytest.skip("searches rows of another kind")
    return engine


def gallery() -> list[VectorBlock]:
    """Two blocks of 300 images with 1 to 3 rows each, some of them dead; both kinds of numbers."""
    random = np.random.default_rng(0)
    images = np.repeat(np.arange(300), random.integers(1, 4, 300))
    vectors, half = unit_rows(random, len(images), DIM), int(np.searchsorted(images, 150))
    dead = random.random(half) < 0.2
    return [
        VectorBlock(vectors[:half], images[:half], ~dead),
        VectorBlock(vectors[half:].astype(np.float16), images[half:]),
    ]


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


def test_what_is_read_again_finds_the_same(vector_engine: Engine) -> None:
    blocks, random = gallery(), np.random.default_rng(1)
    queries, groups = unit_rows(random, 30, DIM), np.repeat(np.arange(12), [1, 4, 0, 2, 3, 2, 3, 3, 3, 3, 3, 3])
    built = vector_engine.build(blocks)
    hits = built.search(queries, groups, 7, blocks, count=14)
    assert len(hits) == 14
    assert (hits.images[[2, 12, 13]] == NO_HIT).all()
    loaded = vector_engine.load(files_of(built))
    assert_same(loaded.search(queries, groups, 7, blocks, count=14), hits)
    assert loaded.covered == built.covered
    assert built.covered in (None, sum(map(len, blocks)))
    assert loaded.dim == built.dim
    assert built.dim in (None, DIM)
    if vector_engine.exact:
        assert_same(hits, search_exact(blocks, queries, groups, 7, count=14))


def test_scores_are_exact_and_rows_alive(vector_engine: Engine) -> None:
    blocks, random = gallery(), np.random.default_rng(2)
    queries, groups = unit_rows(random, 30, DIM), np.arange(30) // 2
    hits = vector_engine.build(blocks).search(queries, groups, 9, blocks)
    vectors = np.concatenate([b.vectors.astype(np.float64) for b in blocks])
    images = np.concatenate([b.images for b in blocks])
    alive = np.concatenate([np.ones(len(b), bool) if b.alive is None else b.alive for b in blocks])
    there = hits.images != NO_HIT
    assert there.all()  # there are more images than are asked for
    assert alive[hits.rows].all()
    np.testing.assert_array_equal(images[hits.rows], hits.images)
    products = np.einsum("qkd,qkd->qk", vectors[hits.rows], queries[hits.query_rows].astype(np.float64))
    np.testing.assert_array_equal(hits.scores, products.astype(np.float32))
    assert (np.diff(hits.scores, axis=1) <= 0).all()
    assert all(len(set(row)) == 9 for row in hits.images.tolist())
    expected = search_exact(blocks, queries, groups, 9)
    assert np.mean(hits.images[:, 0] == expected.images[:, 0]) > 0.9


def test_which_rows_are_alive_may_change(vector_engine: Engine) -> None:
    blocks = gallery()
    structure, query = vector_engine.build(blocks), blocks[1].vectors[:1].astype(np.float32)
    best = structure.search(query, np.array([0]), 1, blocks).images[0, 0]
    assert best == blocks[1].images[0]
    without = [blocks[0], VectorBlock(blocks[1].vectors, blocks[1].images, blocks[1].images != best)]
    assert best not in structure.search(query, np.array([0]), 200, without).images
    none = [VectorBlock(b.vectors, b.images, np.zeros(len(b), bool)) for b in blocks]
    assert (structure.search(query, np.array([0]), 3, none).images == NO_HIT).all()
    assert structure.search(query, np.array([0]), 1, blocks).images[0, 0] == best


def test_more_images_than_there_are(vector_engine: Engine) -> None:
    blocks = gallery()
    hits = vector_engine.build(blocks).search(blocks[1].vectors[:1].astype(np.float32), np.array([0]), 400, blocks)
    assert_same(hits, search_exact(blocks, blocks[1].vectors[:1].astype(np.float32), np.array([0]), 400))


@pytest.mark.parametrize(
    ("queries", "groups", "k", "message"),
    [
        (np.zeros((1, 3)), [0], 1, "queries: expected shape"),
        (np.zeros((1, DIM)), [0], 0, "k: expected at least 1, found 0"),
        (np.zeros((2, DIM)), [1, 0], 1, "non-decreasing"),
    ],
)
def test_wrong_arguments(vector_engine: Engine, queries: np.ndarray, groups: list[int], k: int, message: str) -> None:
    blocks = gallery()
    with pytest.raises(ValueError, match=message):
        vector_engine.build(blocks).search(queries, np.array(groups), k, blocks)
