from __future__ import annotations

import torch

from objemb.ops.fixed_shapes import padded_rows, rows_where


def test_rows_where() -> None:
    assert rows_where(torch.tensor([True, False, True])).tolist() == [0, 2]
    assert rows_where(torch.tensor([False])).tolist() == []
    assert rows_where(torch.zeros(0, dtype=torch.bool)).tolist() == []


def test_padded_rows() -> None:
    rows = torch.tensor([[1.0, 2], [3, 4]])
    assert padded_rows(rows, 3, -1).tolist() == [[1, 2], [3, 4], [-1, -1]]
    assert padded_rows(rows, 1).tolist() == [[1, 2]]
    assert padded_rows(rows[:0], 2).tolist() == [[0, 0], [0, 0]]
    assert padded_rows(rows, 0).shape == (0, 2)
