from __future__ import annotations

import builtins
import io

import numpy as np
import pytest

from objemb.checks import DamagedIndexError
from objemb.index.engines._ivf import FILE, IvfStructure, default_lists, default_probes, images_per_row
from objemb.index.engines.base import Structure
from objemb.index.engines.exact import search_exact
from objemb.index.storage.blocks import VectorBlock
from objemb.index.structures import engine_named
from objemb.ops.scored_pairs import NO_HIT
from tests.index.rabitq import NEEDS_RABITQ
from tests.index.searching import assert_same, unit_rows

pytest.importorskip("faiss")

DIM = 16
ENGINES = ("ivf_sq8", "ivf_pq", "ivf_pq_fastscan", pytest.param("ivf_rabitq", marks=NEEDS_RABITQ))


def gallery(images: int = 400, regions: int = 5, seed: int = 0, first_image: int = 0) -> VectorBlock:
    """Regions in 60 tight clusters."""
    random = np.random.default_rng(seed)
    centres = unit_rows(np.random.default_rng(99), 60, DIM)
    rows = centres[random.integers(60, size=images * regions)] + 0.3 * unit_rows(random, images * regions, DIM)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return VectorBlock(rows, np.repeat(np.arange(first_image, first_image + images), regions))


def content(structure: Structure) -> bytes:
    file = io.BytesIO()
    structure.write({FILE: file}.__getitem__)  # type: ignore[arg-type]
    return file.getvalue()


def built(blocks: list[VectorBlock], engine: str = "ivf_sq8", **settings: int) -> IvfStructure:
    made = engine_named(engine, **settings)
    loaded = engine_named(engine).load({FILE: content(made.build(blocks))})
    assert isinstance(loaded, IvfStructure)
    return loaded


@pytest.mark.parametrize("engine", ENGINES)
def test_finds_what_exact_search_finds(engine: str) -> None:
    blocks = [gallery(), gallery(300, seed=1, first_image=1000)]
    index = built(blocks, engine=engine)
    assert (index.dim, index.covered) == (DIM, 3500)
    queries, groups = gallery(20, seed=2).vectors, np.arange(100) // 3
    found, expected = index.search(queries, groups, 10, blocks), search_exact(blocks, queries, groups, 10)
    recall = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(found.images, expected.images, strict=True)])
    assert recall > 0.95
    assert len(found) == len(expected) == 34
    assert np.all(np.diff(found.scores, axis=1) <= 0)


@pytest.mark.parametrize("engine", ENGINES)
def test_scores_are_those_of_the_stored_vectors(engine: str) -> None:
    block = gallery()
    queries, groups = gallery(4, seed=2).vectors, np.arange(20) // 2
    hits = built([block], engine=engine).search(queries, groups, 5, [block])
    scores = np.einsum("qkd,qkd->qk", block.vectors[hits.rows], queries[hits.query_rows])
    np.testing.assert_allclose(hits.scores, scores, atol=1e-6)
    np.testing.assert_array_equal(hits.images, block.images[hits.rows])
    np.testing.assert_array_equal(groups[hits.query_rows], np.repeat(np.arange(10)[:, None], 5, axis=1))


def test_goes_on_until_there_are_k_images() -> None:
    random = np.random.default_rng(0)
    centre = unit_rows(random, 1, DIM)
    crowd = centre + 1e-3 * unit_rows(random, 1500, DIM)  # one image whose rows fill the nearest lists
    block = VectorBlock(
        np.concatenate([crowd, unit_rows(random, 500, DIM)]),
        np.r_[np.zeros(1500, int), np.repeat(np.arange(1, 101), 5)],
    )
    index = built([block])
    hits = index.search(centre, np.array([0]), 20, [block], probes=1)
    assert NO_HIT not in hits.images
    assert_same(index.search(centre, np.array([0]), 101, [block]), search_exact([block], centre, np.array([0]), 101))
    assert index.search(centre, np.array([0]), 200, [block]).images[0, 101:].tolist() == [NO_HIT] * 99


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("share", [0.7, 0.01, 0.0])
def test_dead_rows_are_not_found(share: float, engine: str) -> None:
    whole = gallery()
    index = built([whole], engine)
    for seed in range(2):  # the second filter must not meet what was kept of the first
        block = VectorBlock(whole.vectors, whole.images, np.random.default_rng(seed).random(2000) < share)
        hits = index.search(whole.vectors[:50], np.arange(50), 5, [block])
        found = hits.rows[hits.rows != NO_HIT]
        assert block.alive is not None
        assert np.all(block.alive[found])
        assert len(found) == (250 if share else 0) or share == 0.01
        expected = search_exact([block], whole.vectors[:50], np.arange(50), 5)
        assert np.mean(hits.images == expected.images) > 0.9


def test_queries_without_rows_find_nothing() -> None:
    block = gallery()
    index = built([block])
    hits = index.search(block.vectors[:1], np.array([1]), 2, [block], count=3)
    assert np.all(hits.images[[0, 2]] == NO_HIT)
    assert hits.images[1, 0] == 0
    assert np.all(
        index.search(np.zeros((0, DIM), np.float32), np.zeros(0, np.int64), 2, [block], count=1).rows == NO_HIT
    )


@pytest.mark.parametrize(
    ("rows", "engine"),
    [
        (1, "ivf_sq8"),
        (2, "ivf_sq8"),
        (70, "ivf_sq8"),
        (70, "ivf_pq_fastscan"),
        *(pytest.param(count, "ivf_rabitq", marks=NEEDS_RABITQ) for count in (1, 70)),
    ],
)
def test_small_indexes(rows: int, engine: str) -> None:
    block = VectorBlock(unit_rows(np.random.default_rng(0), rows, 3).astype(np.float16), np.arange(rows))
    hits = built([block], engine).search(block.vectors[:1].astype(np.float32), np.array([0]), 3, [block])
    assert hits.images[0, 0] == 0
    assert np.count_nonzero(hits.images[0] != NO_HIT) == min(3, rows)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_seed_builds_the_same_file(engine: str) -> None:
    first, second = (content(engine_named(engine, seed=7).build([gallery()])) for _ in range(2))
    assert first == second


@NEEDS_RABITQ
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_rabitq_with_so_many_bits(bits: int) -> None:
    """More bits take more memory; what was built with some settings is loaded with others."""
    block = gallery()
    stored = content(engine_named("ivf_rabitq", bits=bits).build([block]))
    more = content(engine_named("ivf_rabitq", bits=bits + 1).build([block])) if bits < 8 else stored + b"-"
    assert len(more) > len(stored)
    index = engine_named("ivf_rabitq", bits=3).load({FILE: stored})
    queries, groups = gallery(8, seed=2).vectors, np.arange(40)
    found, expected = index.search(queries, groups, 5, [block]), search_exact([block], queries, groups, 5)
    assert np.mean([np.isin(e, f).mean() for e, f in zip(expected.images, found.images, strict=True)]) > 0.95


def test_what_rabitq_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss

    for bits, message in ((0, "an integer of 1 or more, found 0"), (9, "a number from 1 to 8, found 9")):
        with pytest.raises(ValueError, match=f"bits: expected {message}"):
            engine_named("ivf_rabitq", bits=bits)
    monkeypatch.setattr(faiss, "FAISS_VERSION_MINOR", 12)
    with pytest.raises(ImportError, match=r"ivf_rabitq needs FAISS 1\.15 or newer, found 1\.12"):
        engine_named("ivf_rabitq").build([gallery(10)])


def test_default_lists_and_probes() -> None:
    assert [default_lists(n) for n in (1, 64, 10_000, 1_000_000, 100_000_000)] == [1, 1, 128, 2048, 16384]
    assert [default_probes(2048, 1_000_000, k) for k in (1, 10, 100)] == [5, 5, 14]
    assert [default_probes(n, rows, 10) for n, rows in ((1, 9), (2, 9), (128, 10_000), (16384, 10**8))] == [
        1,
        2,
        27,
        32,
    ]


def test_rows_of_a_query_share_its_images() -> None:
    assert [images_per_row(k, 1) for k in (1, 10, 100)] == [1, 10, 100]
    assert [images_per_row(k, 4) for k in (1, 10, 16, 100, 101)] == [1, 10, 10, 50, 51]


def test_an_answer_does_not_depend_on_the_other_queries() -> None:
    """Queries of different numbers of rows probe different numbers of lists."""
    block = gallery()
    index = built([block], lists=64)
    queries, groups = gallery(10, seed=2).vectors[:22], np.repeat([0, 1, 3], [1, 16, 5])
    together = index.search(queries, groups, 40, [block], count=4)
    for query in (0, 1, 3):
        own = groups == query
        alone = index.search(queries[own], groups[own] - query, 40, [block])
        np.testing.assert_array_equal(together.images[query], alone.images[0])
        np.testing.assert_array_equal(together.scores[query], alone.scores[0])
        np.testing.assert_array_equal(together.query_rows[query] - np.flatnonzero(own)[0], alone.query_rows[0])
    assert np.all(together.images[2] == NO_HIT)


def test_what_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="expected at least one row, found none"):
        engine_named("ivf_sq8").build([])
    with pytest.raises(ValueError, match="expected at least 256 rows to train codes, found 50"):
        engine_named("ivf_pq").build([gallery(10)])
    with pytest.raises(ValueError, match=r"expected one of .* found .ivfsq8. .did you mean .ivf_sq8."):
        engine_named("ivfsq8")
    with pytest.raises(ValueError, match="lists: expected an integer of 1 or more, found 0"):
        engine_named("ivf_sq8", lists=0)
    with pytest.raises(ValueError, match="lists: expected a number from 1 to 50, found 51"):
        engine_named("ivf_sq8", lists=51).build([gallery(10)])
    with pytest.raises(ValueError, match="seed: expected an integer of 0 or more, found 'x'"):
        engine_named("ivf_sq8", seed="x")


def test_what_cannot_be_searched() -> None:
    block = gallery(10)
    index = built([block])
    with pytest.raises(ValueError, match="expected the 50 rows that the inverted file was built over, found 45"):
        index.search(block.vectors[:1], np.array([0]), 1, [gallery(9)])
    with pytest.raises(ValueError, match="queries: expected shape"):
        index.search(np.zeros((1, 3), np.float32), np.array([0]), 1, [block])


def test_damaged_files_are_refused() -> None:
    whole = content(engine_named("ivf_sq8").build([gallery(100)]))
    for damaged in (b"", whole[:10], whole[: len(whole) // 2], b"XXXX" + whole[4:]):
        with pytest.raises(DamagedIndexError, match="cannot be read as an inverted file"):
            engine_named("ivf_sq8").load({FILE: damaged})
    with pytest.raises(DamagedIndexError, match="expected the file 'index' of an inverted file, found 'other'"):
        engine_named("ivf_sq8").load({"other": whole})


def test_a_forged_file_that_names_other_rows() -> None:
    import faiss

    block = gallery(100)
    index = faiss.deserialize_index(np.frombuffer(content(engine_named("ivf_sq8").build([block])), np.uint8))
    for number in range(index.nlist):
        ids = faiss.rev_swig_ptr(index.invlists.get_ids(number), index.invlists.list_size(number))
        ids += 500
    forged = engine_named("ivf_sq8").load({FILE: faiss.serialize_index(index)})
    with pytest.raises(DamagedIndexError, match="expected an inverted file of the rows 0 to 499, found one that names"):
        forged.search(block.vectors[:1], np.array([0]), 5, [block])


def test_errors_of_writing_go_on() -> None:
    class Full:
        def write(self, data: bytes) -> None:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        engine_named("ivf_sq8").build([gallery(10)]).write(lambda name: Full())


def test_other_structures_are_refused() -> None:
    import faiss

    flat, other = faiss.serialize_index(faiss.IndexFlatIP(4)), content(engine_named("ivf_sq8").build([gallery(10)]))
    with pytest.raises(DamagedIndexError, match="expected an inverted file of 'ivf_sq8', found IndexFlatIP"):
        engine_named("ivf_sq8").load({FILE: flat})
    with pytest.raises(DamagedIndexError, match="expected an inverted file of 'ivf_pq', found IndexIVFScalarQuantizer"):
        engine_named("ivf_pq").load({FILE: other})


def test_without_faiss_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_faiss(name: str, *args, **options):  # type: ignore[no-untyped-def]
        if name == "faiss":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without_faiss)
    with pytest.raises(ImportError, match=r"pip install 'objemb\[ann\]'"):
        engine_named("ivf_sq8").build([gallery(10)])
