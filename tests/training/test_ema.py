from __future__ import annotations

import pytest
import torch
from torch import nn

from objemb.training.ema import Ema


def test_the_average_by_hand() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 1.0)
    ema = Ema(layer, 0.9)
    nn.init.constant_(layer.weight, 12.0)
    ema.update(layer)  # decay (1 + 1) / (10 + 1)
    assert ema.average["weight"].item() == pytest.approx(2 / 11 * 1 + 9 / 11 * 12)
    ema.updates = 1000  # decay 0.9
    kept = ema.average["weight"].item()
    ema.update(layer)
    assert ema.average["weight"].item() == pytest.approx(0.9 * kept + 0.1 * 12)


def test_counters_are_copied_and_weights_come_back() -> None:
    norm = nn.BatchNorm1d(2)
    ema = Ema(norm, 0.5)
    norm(torch.randn(4, 2))
    own = {k: v.clone() for k, v in norm.state_dict().items()}
    ema.update(norm)
    assert ema.average["num_batches_tracked"] == 1
    with ema.swapped_into(norm):
        assert torch.equal(norm.running_mean, ema.average["running_mean"])
        assert not torch.equal(norm.running_mean, own["running_mean"])
    assert all(torch.equal(own[k], v) for k, v in norm.state_dict().items())


def test_state_goes_on() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(2, 2)
    first, second = Ema(layer, 0.9), Ema(nn.Linear(2, 2), 0.9)
    nn.init.ones_(layer.weight)
    first.update(layer)
    second.load_state_dict(first.state_dict())
    assert second.updates == 1
    assert all(torch.equal(first.average[k], second.average[k]) for k in first.average)
