from __future__ import annotations

import torch

from objemb.ops.normalize import l2


def test_unit_length_and_zeros() -> None:
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0], [-2.0, 0.0]])
    assert torch.allclose(l2(vectors), torch.tensor([[0.6, 0.8], [0.0, 0.0], [-1.0, 0.0]]))


def test_huge_and_tiny_rows() -> None:
    vectors = torch.tensor([[3e30, 4e30], [3e-30, 4e-30], [1e-44, 0.0]])
    assert torch.allclose(l2(vectors), torch.tensor([[0.6, 0.8], [0.6, 0.8], [1.0, 0.0]]))


def test_empties() -> None:
    assert l2(torch.zeros(0, 5)).shape == (0, 5)
    assert l2(torch.zeros(5, 0)).shape == (5, 0)
