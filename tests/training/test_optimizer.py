from __future__ import annotations

import pytest
import torch
from torch import nn

from objemb.training.optimizer import make_optimizer, set_learning_rate
from objemb.training.settings import RunSettings

SETTINGS = RunSettings(steps=1, batch=1, lr=0.5, weight_decay=0.1)


def test_only_matrices_decay_and_factors_count() -> None:
    first, second = nn.Linear(2, 3), nn.BatchNorm1d(3)
    groups = [{"params": list(first.parameters()), "factor": 0.1}, {"params": list(second.parameters())}]
    optimizer = make_optimizer(groups, SETTINGS)
    found = [(len(g["params"]), g["weight_decay"], g["factor"]) for g in optimizer.param_groups]
    assert found == [(1, 0.1, 0.1), (1, 0.0, 0.1), (2, 0.0, 1.0)]
    set_learning_rate(optimizer, 0.5)
    assert [g["lr"] for g in optimizer.param_groups] == [0.05, 0.05, 0.5]


def test_frozen_parameters_are_left_out() -> None:
    layer = nn.Linear(2, 3)
    layer.bias.requires_grad_(False)
    (group,) = make_optimizer([{"params": layer.parameters()}], SETTINGS).param_groups
    assert group["params"] == [layer.weight]
    with pytest.raises(ValueError, match="expected parameters to learn, found none"):
        make_optimizer([{"params": [layer.bias]}], SETTINGS)


def test_sgd() -> None:
    settings = RunSettings(steps=1, batch=1, lr=0.5, weight_decay=0.0, optimizer="sgd", momentum=0.0)
    weight = nn.Parameter(torch.ones(1, 1))
    optimizer = make_optimizer([{"params": [weight]}], settings)
    (weight.sum() * 2).backward()
    optimizer.step()
    assert weight.item() == 0.0


def test_mistakes_are_named() -> None:
    layer = nn.Linear(2, 3)
    with pytest.raises(ValueError, match="expected each parameter once"):
        make_optimizer([{"params": layer.parameters()}, {"params": [layer.weight]}], SETTINGS)
    with pytest.raises(ValueError, match="expected the keys 'params' and 'factor', found 'lr'"):
        make_optimizer([{"params": layer.parameters(), "lr": 1}], SETTINGS)
