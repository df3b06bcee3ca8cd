from __future__ import annotations

import math

import pytest
import torch

from objemb.losses.classification import cosine_softmax_loss, start_prototypes


def test_by_hand() -> None:
    vectors, prototypes = torch.tensor([[3.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    label = torch.tensor([0])
    found = cosine_softmax_loss(vectors, prototypes, label, scale=2.0)
    assert found.item() == pytest.approx(math.log(1 + math.exp(-2.0)))
    found = cosine_softmax_loss(vectors, prototypes, label, scale=2.0, margin=0.5)
    assert found.item() == pytest.approx(math.log(1 + math.exp(-1.0)))


def test_none_is_a_zero_with_a_gradient() -> None:
    vectors, prototypes = torch.zeros(0, 3, requires_grad=True), torch.ones(2, 3, requires_grad=True)
    loss = cosine_softmax_loss(vectors, prototypes, torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
    assert prototypes.grad is not None
    assert not prototypes.grad.any()


def test_bad_values_are_named() -> None:
    with pytest.raises(ValueError, match="labels: expected shape"):
        cosine_softmax_loss(torch.ones(2, 3), torch.ones(2, 3), torch.tensor([0]))
    with pytest.raises(ValueError, match="margin: expected a number from 0 to 1, found 2"):
        cosine_softmax_loss(torch.ones(1, 3), torch.ones(2, 3), torch.tensor([0]), margin=2.0)


def test_prototypes_start_as_directions() -> None:
    torch.testing.assert_close(start_prototypes(5, 3).norm(dim=1), torch.ones(5))
