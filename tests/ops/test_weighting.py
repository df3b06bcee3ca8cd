from __future__ import annotations

import math

import pytest
import torch

from objemb.ops.weighting import EPSILON, saliency, sparsity_weights


def test_by_hand() -> None:
    features = torch.zeros(3, 2, 2)
    features[0] = 1.0  # active in all cells
    features[1, 0, 0] = 9.0  # in a quarter
    weights = sparsity_weights(features)
    total = 1.25 + 3 * EPSILON
    expected = [math.log(total / (share + EPSILON)) for share in (1, 0.25, 0)]
    assert torch.allclose(weights, torch.tensor(expected), atol=1e-6)


def test_a_batch_is_one_after_the_other() -> None:
    features = torch.randn(3, 5, 4, 6, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(sparsity_weights(features), torch.stack([sparsity_weights(f) for f in features]))
    assert (sparsity_weights(features) >= 0).all()


def test_nothing_seen() -> None:
    assert torch.allclose(sparsity_weights(torch.zeros(4, 2, 2)), torch.full((4,), math.log(4)))
    assert sparsity_weights(torch.zeros(1, 2, 2)).tolist() == [0]


def test_saliency_by_hand() -> None:
    features = torch.tensor([[[1.0, 0], [2, 0]], [[2.0, 0], [2, 0]]])  # sums 3, 0, 4, 0
    assert torch.allclose(saliency(features), torch.tensor([[0.6, 0], [0.8, 0]]))


def test_nothing_is_salient() -> None:
    assert saliency(torch.zeros(3, 2, 2)).abs().max() == 0
    assert saliency(torch.tensor([[[-1.0, 2]], [[0.0, 0]]])).tolist() == [[0, 1]]  # below 0 is not salient


def test_saliency_refuses_a_batch() -> None:
    with pytest.raises(ValueError, match=r"features: expected shape \(any, any, any\), found \(1, 2, 3, 4\)"):
        saliency(torch.zeros(1, 2, 3, 4))
