from __future__ import annotations

import numpy as np

from objemb.index.storage.blocks import RowTable, VectorBlock, pair_scores


def test_equal_vectors_score_equally_wherever_they_lie() -> None:
    row = np.random.default_rng(0).standard_normal(37).astype(np.float32)
    table = RowTable([VectorBlock(np.tile(row, (n, 1)), np.arange(n)) for n in (3, 9000)])
    rows = np.arange(9003)
    scores = pair_scores(table, rows, row[None] * 0.3, np.zeros(9003, np.int64))
    assert len(np.unique(scores)) == 1


def test_rows_are_looked_up_through_all_blocks() -> None:
    first = VectorBlock(np.array([[1.0]], np.float32), np.array([5]), np.array([False]))
    second = VectorBlock(np.array([[2.0], [3.0]], np.float16), np.array([6, 6]))
    table = RowTable([first, second])
    wanted = np.array([2, 0, 1])
    assert len(table) == 3
    assert table.images(wanted).tolist() == [6, 5, 6]
    assert table.vectors(wanted).tolist() == [[3.0], [1.0], [2.0]]
    assert table.vectors(wanted).dtype == np.float32


def test_rows_in_any_order_of_many_blocks() -> None:
    random = np.random.default_rng(0)
    lengths = (3, 0, 40, 1, 17)
    blocks = [
        VectorBlock(random.random((n, 4)).astype(dtype), random.integers(0, 99, n))
        for n, dtype in zip(lengths, ("f4", "f4", "f2", "f4", "f4"), strict=True)
    ]
    table = RowTable(blocks)
    vectors = np.concatenate([b.vectors.astype(np.float32) for b in blocks])
    images = np.concatenate([b.images for b in blocks])
    for rows in (random.integers(0, sum(lengths), 50), np.arange(61), np.zeros(0, np.int64), np.array([42, 42])):
        assert np.array_equal(table.vectors(rows), vectors[rows])
        assert np.array_equal(table.images(rows), images[rows])
