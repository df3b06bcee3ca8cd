from __future__ import annotations

import torch

from objemb.pooling.mean import Mean


def test_by_hand() -> None:
    maps = torch.tensor([[[[1.0, 5.0], [2.0, 4.0]]]])
    assert Mean()(maps).tolist() == [[3]]


def test_weights() -> None:
    maps = torch.tensor([[[[1.0, 5.0], [2.0, 4.0]]]]).repeat(2, 1, 1, 1)
    weights = torch.tensor([[[0.5, 0.0], [1.0, 0.5]], [[0.0, 0.0], [0.0, 0.0]]])
    assert torch.allclose(Mean()(maps, weights), torch.tensor([[(0.5 + 2 + 2) / 2], [0.0]]))
