from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from objemb.checks import DamagedIndexError
from objemb.index.engines import exact
from objemb.index.engines.exact import search_exact
from objemb.index.storage.blocks import VectorBlock
from objemb.ops.int8_codes import encode
from objemb.ops.products import NumpyKernel
from objemb.ops.scored_pairs import NO_HIT, GroupedHits
from tests.index.searching import assert_same, random_block, slow_search, unit_rows

X, Y = [1.0, 0.0], [0.0, 1.0]


def block(rows: list[list[float]], images: list[int], alive: list[bool] | None = None) -> VectorBlock:
    return VectorBlock(np.array(rows, np.float32), np.array(images), None if alive is None else np.array(alive))


def search(blocks: list[VectorBlock], rows: list[list[float]], groups: list[int], k: int, **options):  # type: ignore[no-untyped-def]
    return search_exact(blocks, np.array(rows, np.float32).reshape(-1, 2), np.array(groups, np.int64), k, **options)


def test_best_pair_of_each_image_by_hand() -> None:
    gallery = block([X, [0.6, 0.8], [0.8, 0.6], [0.0, 0.5]], [4, 4, 9, 11])
    hits = search([gallery], [[0.8, 0.6], Y], [0, 1], k=2)
    assert hits.images.tolist() == [[9, 4], [4, 9]]
    assert hits.rows.tolist() == [[2, 1], [1, 2]]
    assert hits.query_rows.tolist() == [[0, 0], [1, 1]]
    assert hits.scores == pytest.approx(np.array([[1.0, 0.96], [0.8, 0.6]]))


def test_rows_of_one_query_share_a_ranking() -> None:
    hits = search([block([X, Y], [1, 2])], [[0.5, 0.0], [0.0, 0.7]], [0, 0], k=2)
    assert hits.images.tolist() == [[2, 1]]
    assert hits.query_rows.tolist() == [[1, 0]]


def test_rows_count_through_all_blocks() -> None:
    blocks = [block([X], [1]), VectorBlock(np.zeros((0, 2), np.float32), np.zeros(0, np.int64))]
    hits = search([*blocks, block([X, Y], [5, 6])], [Y], [0], k=3)
    assert hits.images.tolist() == [[6, 1, 5]]
    assert hits.rows.tolist() == [[2, 0, 1]]


def test_equal_scores_come_by_lower_row_then_lower_query_row() -> None:
    hits = search([block([Y, Y, Y, Y], [8, 8, 3, 5])], [Y, Y], [0, 0], k=2)
    assert hits.images.tolist() == [[8, 3]]
    assert hits.rows.tolist() == [[0, 2]]
    assert hits.query_rows.tolist() == [[0, 0]]


def test_dead_rows_are_not_found() -> None:
    hits = search([block([X, X, Y], [1, 2, 3], [False, True, False])], [X], [0], k=3)
    assert hits.images.tolist() == [[2, NO_HIT, NO_HIT]]
    assert hits.rows.tolist() == [[1, NO_HIT, NO_HIT]]
    assert hits.scores.tolist() == [[1.0, -np.inf, -np.inf]]


@pytest.mark.parametrize("blocks", [[], [block([X], [1], [False])]])
def test_nothing_to_find(blocks: list[VectorBlock]) -> None:
    hits = search(blocks, [X, Y], [0, 2], k=2)
    assert hits.images.tolist() == [[NO_HIT] * 2] * 3
    assert hits.scores.dtype == np.float32
    assert hits.images.dtype == hits.rows.dtype == hits.query_rows.dtype == np.int64


def test_queries_without_rows_find_nothing() -> None:
    hits = search([block([X], [1])], [X], [1], k=1, count=4)
    assert hits.images.tolist() == [[NO_HIT], [1], [NO_HIT], [NO_HIT]]
    assert search([block([X], [1])], [], [], k=1, count=2).images.tolist() == [[NO_HIT], [NO_HIT]]
    assert search([block([X], [1])], [], [], k=1).images.shape == (0, 1)


def test_zero_and_negative_scores_count() -> None:
    hits = search([block([X, [-1.0, 0.0], [0.0, 0.0]], [1, 2, 3])], [[-1.0, 0.0]], [0], k=3)
    assert hits.images.tolist() == [[2, 3, 1]]
    assert hits.scores.tolist() == [[1.0, 0.0, -1.0]]


@pytest.mark.parametrize("seed", range(25))
def test_agrees_with_the_slow_search(seed: int) -> None:
    random = np.random.default_rng(seed)
    dim, rows = int(random.integers(1, 40)), int(random.integers(0, 40))
    blocks = [random_block(random, int(random.integers(0, 30)), dim, 1000 * b) for b in range(random.integers(1, 4))]
    queries, groups = unit_rows(random, rows, dim) * 3, np.sort(random.integers(0, rows // 3 + 1, size=rows))
    if rows and len(blocks[0]):
        queries[0] = blocks[0].vectors[0]
    k, count = int(random.integers(1, 30)), rows // 3 + 1
    expected = slow_search(blocks, queries, groups, k, count)
    assert_same(search_exact(blocks, queries, groups, k, count=count), expected)


@pytest.mark.parametrize("k", [1, 7, 500])
@pytest.mark.parametrize("coded", [False, True])
def test_chunks_passes_and_sifting_do_not_show(k: int, coded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    vectors = unit_rows(random, 3000, 16)
    vectors[1000:2000] = vectors[0]  # so many ties that they do not fit into the sieve
    gallery = VectorBlock(vectors, np.arange(3000) // 7, random.random(3000) < 0.8, encode(vectors) if coded else None)
    queries, groups = np.concatenate([vectors[:1], unit_rows(random, 29, 16)]), np.arange(30) // 4
    expected = search_exact([gallery], queries, groups, k)
    monkeypatch.setattr(exact, "NUMBERS_PER_CHUNK", 1500)
    monkeypatch.setattr(exact, "CAPACITY", 50)
    monkeypatch.setattr(exact, "SCORES_PER_CHUNK", 1000)
    monkeypatch.setattr(exact, "QUERY_ROWS_PER_PASS", 9)
    monkeypatch.setattr(exact, "MAX_PENDING", 600)
    assert_same(search_exact([gallery], queries, groups, k), expected)
    assert_same(search_exact([replace(gallery, codes=None)], queries, groups, k), expected)


def test_more_queries_than_one_pass_takes() -> None:
    random = np.random.default_rng(4)
    gallery, queries, groups = random_block(random, 40, 8), unit_rows(random, 200, 8), np.zeros(200, np.int64)
    groups[150:] = 1
    assert_same(search_exact([gallery], queries, groups, 6), slow_search([gallery], queries, groups, 6, 2))


def test_memory_maps_are_read_in_place(tmp_path) -> None:  # type: ignore[no-untyped-def]
    vectors = unit_rows(np.random.default_rng(5), 50, 4)
    vectors.tofile(tmp_path / "vectors")
    mapped = np.memmap(tmp_path / "vectors", dtype=np.float32, mode="r", shape=(50, 4))
    hits = search_exact([VectorBlock(mapped, np.arange(50))], vectors[7:8], np.array([0]), 1)
    assert hits.images.tolist() == [[7]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k: expected at least 1, found 0"),
        ({"queries": np.zeros((1, 3))}, r"queries: expected shape \(R, 2\), found \(1, 3\)"),
        ({"queries": np.zeros(2)}, r"queries: expected shape \(R, 2\), found \(2,\)"),
        ({"groups": np.array([1, 0]), "queries": np.zeros((2, 2))}, r"expected 2 non-decreasing .* found \[1, 0\]"),
        ({"groups": np.array([-1])}, r"non-decreasing numbers from 0, found \[-1\]"),
        ({"groups": np.array([0, 1])}, "expected 1 non-decreasing"),
        ({"groups": np.array([3]), "count": 3}, "count: expected at least 4 queries, as in groups, found 3"),
        ({"blocks": [block([X], [1]), random_block(np.random.default_rng(0), 1, 3)]}, r"one length, found \[2, 3\]"),
    ],
)
def test_wrong_arguments(arguments: dict, message: str) -> None:
    usual = {"blocks": [block([X], [1])], "queries": np.zeros((1, 2), np.float32), "groups": np.array([0]), "k": 1}
    with pytest.raises(ValueError, match=message):
        search_exact(**(usual | arguments))


def test_blocks_check_themselves() -> None:
    with pytest.raises(
        ValueError, match=r"VectorBlock.vectors: expected float32 or float16 \(n, D\), found float64 \(1, 2\)"
    ):
        VectorBlock(np.zeros((1, 2)), np.zeros(1, np.int64))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"VectorBlock.images: expected 2 rows, found 1"):
        VectorBlock(np.zeros((2, 2), np.float32), np.zeros(1, np.int64))
    with pytest.raises(ValueError, match=r"VectorBlock.codes: expected 2 rows, found 1"):
        VectorBlock(np.zeros((2, 2), np.float32), np.zeros(2, np.int64), None, encode(np.zeros((1, 2), np.float32)))


@pytest.mark.parametrize("coded", [False, True])
def test_of_less_images_than_asked_for_one_pair_each_is_kept(coded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A query of many boxes among few images of many rows: no lower bound rules a pair out."""
    random = np.random.default_rng(0)
    vectors = unit_rows(random, 3000, 16)
    gallery = VectorBlock(vectors, np.repeat(np.arange(30), 100), codes=encode(vectors) if coded else None)
    queries, groups = unit_rows(random, 40, 16), np.repeat([0, 1], 20)
    scored, pair_scores = [], exact.pair_scores

    def counted(table, rows, *others):  # type: ignore[no-untyped-def]
        scored.append(len(rows))
        return pair_scores(table, rows, *others)

    monkeypatch.setattr(exact, "pair_scores", counted)
    found = search_exact([gallery], queries, groups, 50)
    assert_same(found, slow_search([gallery], queries, groups, 50, 2))
    assert sum(scored) < 3000 * 40 // 20


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("alive", [None, "few", "most"])
def test_vectors_that_are_not_finite_are_an_error(wrong: float, alive: str | None) -> None:
    vectors = unit_rows(np.random.default_rng(0), 100, 4)
    vectors[60, 2] = wrong
    numbers = np.arange(100)
    mask = None if alive is None else numbers % 10 == 0 if alive == "few" else numbers % 10 != 1
    with pytest.raises(DamagedIndexError, match="expected finite vectors, found others among rows 0 to"):
        search_exact(
            [VectorBlock(vectors, numbers, mask)], unit_rows(np.random.default_rng(1), 3, 4), np.zeros(3, int), 5
        )


def test_vectors_that_are_not_finite_are_an_error_when_their_codes_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "MIN_CODES", 1)
    vectors = unit_rows(np.random.default_rng(0), 100, 4)
    vectors[60, 2] = np.nan
    queries = unit_rows(np.random.default_rng(1), exact.ENCODE_AFTER, 4)
    block = VectorBlock(vectors, np.arange(100))
    with pytest.raises(DamagedIndexError, match="expected finite vectors, found others among rows 0 to 100"):
        exact.ExactSearch().search(queries, np.zeros(exact.ENCODE_AFTER, np.int64), 5, [block])


def test_codes_are_made_and_used_for_sizes_of_search_that_they_make_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "MIN_CODES", 1)
    monkeypatch.setattr(exact, "best_kernel", Fine)
    monkeypatch.setattr(exact, "compiled_kernel", lambda: None)
    kernel, clock, used = Fine(), [0.0], []
    monkeypatch.setattr(exact, "best_kernel", lambda: kernel)
    monkeypatch.setattr(exact.time, "perf_counter", lambda: clock[0])

    def timed(blocks: list[VectorBlock], queries: np.ndarray, *given: Any, **named: Any) -> GroupedHits:
        coded = blocks[0].codes is not None
        used.append(coded)
        clock[0] += (1.0 if len(queries) > 8 else 3.0) if coded else 2.0  # faster for many query rows only
        return search_exact(blocks, queries, *given, **named)

    monkeypatch.setattr(exact, "search_exact", timed)
    random = np.random.default_rng(0)
    blocks = [VectorBlock(unit_rows(random, n, 6), np.arange(n) + first) for n, first in ((20, 0), (100, 20))]
    one, many = (unit_rows(random, n, 6) for n in (1, exact.ENCODE_AFTER))
    search = exact.ExactSearch()

    def check(queries: np.ndarray, k: int) -> bool:
        groups = np.arange(len(queries))
        assert_same(search.search(queries, groups, k, blocks), search_exact(blocks, queries, groups, k))
        return used[-1]

    turns = [False, True] * (1 + exact.TURNS)
    assert not any(check(one, 5) for _ in range(exact.ENCODE_AFTER - 1))
    assert search._codes == {}
    assert [check(one, 5) for _ in turns] == turns
    assert set(search._codes) == {(id(b.vectors), 127) for b in blocks}
    assert not any(check(one, 5) for _ in range(3))
    assert [check(many, 5) for _ in turns] == turns
    assert all(check(many, 5) for _ in range(3))
    assert [check(one, 20) for _ in turns] == turns
    del blocks[:]
    assert search._codes == {}


def test_the_shortest_time_of_several_turns_counts() -> None:
    """The first turn warms up; a busy moment does not decide; equally fast codes are not used."""
    fast, slow = Fine(), Fine()
    trial = exact._Trial([fast, slow])
    seconds = {None: [9.0, 2.0, 2.0, 2.0, 2.0], fast: [50.0, 8.0, 1.0, 8.0, 8.0], slow: [0.1, 1.99, 1.99, 1.99, 1.99]}
    for turn in range(1 + exact.TURNS):
        for kernel, of_turns in seconds.items():
            assert trial.next_kernel() is kernel
            trial.add(kernel, of_turns[turn])
    assert trial.next_kernel() is fast
    trial.add(fast, 0.0)  # later times are not compared
    alone = exact._Trial([slow])
    for turn in range(1 + exact.TURNS):
        for kernel in (None, slow):
            alone.add(kernel, seconds[kernel][turn])
    assert alone.next_kernel() is None


def test_a_trial_begins_anew_when_times_change() -> None:
    """Busier and less busy machines may have another fastest kernel; single slow searches say nothing."""
    kernel = NumpyKernel()
    trial = exact._Trial([kernel])

    def try_both(plain: float, coded: float) -> None:
        for _ in range(1 + exact.TURNS):
            for choice, seconds in ((None, plain), (kernel, coded)):
                assert trial.next_kernel() is choice
                trial.add(choice, seconds)

    def chosen_after(choice: NumpyKernel | None, seconds: list[float]) -> NumpyKernel | None:
        for time in seconds:
            assert trial.next_kernel() is choice
            trial.add(choice, time)
        return trial.next_kernel()

    try_both(2, 1)
    assert chosen_after(kernel, [9.0] * (exact.RECENT - 1) + [1.4]) is kernel
    assert chosen_after(kernel, [0.7] * exact.RECENT) is kernel
    assert chosen_after(kernel, [1.6] * exact.RECENT) is None
    try_both(3, 4)
    assert chosen_after(None, [3.0] * exact.RECENT) is None
    assert chosen_after(None, [1.9] * exact.RECENT) is None
    try_both(2, 1)
    assert trial.next_kernel() is kernel


class Coarse(NumpyKernel):
    """A kernel with codes of fewer bits."""

    largest_code, fast_codes = 63, True


class Fine(NumpyKernel):
    """A kernel with codes of all bits."""

    fast_codes = True


def test_a_kernel_is_compiled_after_as_much_work_as_pays_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kernel has codes of its own, and searches the sizes for which it is fastest; where two kinds of codes take
    too much memory, the finer ones are left."""
    first, second, clock = Coarse(), Fine(), [0.0]
    monkeypatch.setattr(exact, "MIN_CODES", 1)
    monkeypatch.setattr(exact, "COMPILE_AFTER", 30 * 600)
    monkeypatch.setattr(exact, "best_kernel", lambda: first)
    monkeypatch.setattr(exact, "compiled_kernel", lambda: second)
    monkeypatch.setattr(exact.time, "perf_counter", lambda: clock[0])
    random = np.random.default_rng(0)
    gallery, search = VectorBlock(unit_rows(random, 100, 6), np.arange(100) // 2), exact.ExactSearch()
    used: list[Any] = []

    def timed(blocks: list[VectorBlock], queries: np.ndarray, *given: Any, **named: Any) -> GroupedHits:
        codes = blocks[0].codes
        used.append(None if codes is None else (codes.kernel, int(np.abs(codes.values).max())))
        clock[0] += 9.0 if codes is None else 1.0 if (codes.kernel is second) == (len(queries) == 1) else 2.0
        return search_exact(blocks, queries, *given, **named)

    monkeypatch.setattr(exact, "search_exact", timed)

    def after(queries: int, times: int) -> Any:
        for _ in range(times):
            rows, groups = unit_rows(random, queries, 6), np.arange(queries)
            assert_same(search.search(rows, groups, 4, [gallery]), search_exact([gallery], rows, groups, 4))
        return used[-1]

    assert after(1, 29) == (first, 63)
    assert after(1, 1 + 3 * (1 + exact.TURNS)) == (second, 127)
    assert after(2, 1 + 3 * (1 + exact.TURNS)) == (first, 63)
    assert len(search._codes) == 2
    monkeypatch.setattr(exact, "MAX_CODES", 600)
    assert after(2, 1 + 2 * (1 + exact.TURNS)) == (second, 127)
