from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from objemb.layers.context_attention import ContextAttention


def test_the_formula_by_hand() -> None:
    net = ContextAttention(channels=1, hidden=2)
    with torch.no_grad():
        net.hidden.weight.copy_(torch.tensor([[1.0, 0.0], [0.5, -1.0]]))
        net.hidden.bias.copy_(torch.tensor([0.0, 0.25]))
        net.out.weight.copy_(torch.tensor([[2.0, 1.0]]))
        net.out.bias.copy_(torch.tensor([-0.5]))
    found = net(torch.tensor([[0.5]]), torch.tensor([[1.0]]))
    score = 2 * math.tanh(0.5) + math.tanh(0.5 * 0.5 - 1.0 + 0.25) - 0.5
    assert found.item() == pytest.approx(math.log(1 + math.exp(score)), abs=1e-6)


def test_all_regions_count_alike_before_anything_is_learned() -> None:
    found = ContextAttention(4, 3, "softplus")(torch.randn(5, 4), torch.randn(5, 4))
    assert torch.allclose(found, torch.full((5,), math.log(2)))
    assert ContextAttention(4)(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)


def test_the_activation_is_a_choice() -> None:
    outs = []
    for activation in ("tanh", "softplus"):
        torch.manual_seed(0)
        net = ContextAttention(4, 3, activation)
        nn.init.ones_(net.out.weight)
        outs.append(net(torch.ones(1, 4), torch.ones(1, 4)).item())
    assert outs[0] != pytest.approx(outs[1])
    with pytest.raises(ValueError, match=r"activation: expected one of .*tanh.*, found 'relu'"):
        ContextAttention(4, 3, "relu")
