from __future__ import annotations

import pytest
import torch

from objemb.ops.saliency import saliency


def test_by_hand() -> None:
    features = torch.tensor([[[1.0, 0], [2, 0]], [[2.0, 0], [2, 0]]])  # sums 3, 0, 4, 0
    assert torch.allclose(saliency(features), torch.tensor([[0.6, 0], [0.8, 0]]))


def test_nothing_seen() -> None:
    assert saliency(torch.zeros(3, 2, 2)).abs().max() == 0
    assert saliency(torch.tensor([[[-1.0, 2]], [[0.0, 0]]])).tolist() == [[0, 1]]  # below 0 is not salient


def test_refuses_a_batch() -> None:
    with pytest.raises(ValueError, match=r"features: expected shape \(any, any, any\), found \(1, 2, 3, 4\)"):
        saliency(torch.zeros(1, 2, 3, 4))
