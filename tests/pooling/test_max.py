from __future__ import annotations

import torch

from objemb.pooling.max import Max


def test_by_hand() -> None:
    maps = torch.tensor([[[[1.0, 5.0], [2.0, 3.0]], [[-4.0, -1.0], [-2.0, -3.0]]]])
    assert Max()(maps).tolist() == [[5, -1]]


def test_weights_choose_cells_and_do_not_scale_them() -> None:
    maps = torch.tensor([[[[1.0, 5.0], [2.0, 3.0]], [[-4.0, -1.0], [-2.0, -3.0]]]]).repeat(2, 1, 1, 1)
    weights = torch.tensor([[[0.1, 0.0], [0.5, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    assert Max()(maps, weights).tolist() == [[2, -2], [0, 0]]
