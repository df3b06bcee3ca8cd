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


def test_what_is_frozen_is_neither_kept_nor_changed() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(2, 2).requires_grad_(False), nn.BatchNorm1d(2).requires_grad_(False), nn.Linear(2, 1)
    )
    ema = Ema(module, 0.5)
    buffers = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert ema.average.keys() == {"2.weight", "2.bias", *buffers}
    frozen = module[0].weight.clone()
    nn.init.constant_(module[2].weight, 3.0)
    module(torch.randn(4, 2))
    ema.update(module)
    ema.copy_to(module)
    assert torch.equal(module[0].weight, frozen)
    assert torch.equal(module[2].weight, ema.average["2.weight"])
    assert torch.equal(module[1].running_mean, ema.average["1.running_mean"])
    assert not module[2].weight.eq(3).any()


def test_a_parameter_of_two_owners_is_frozen_under_both_names() -> None:
    module = nn.ModuleDict({"one": nn.Linear(2, 2, bias=False).requires_grad_(False), "head": nn.Linear(2, 2)})
    module["two"] = module["one"]
    assert Ema(module, 0.9).average.keys() == {"head.weight", "head.bias"}
    module["one"].requires_grad_(True)
    assert Ema(module, 0.9).average.keys() == {"one.weight", "two.weight", "head.weight", "head.bias"}


def test_an_average_of_everything_is_read_as_well() -> None:
    """As of a run whose detector was averaged although it was frozen."""
    module = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 1))
    ema = Ema(module, 0.9)
    everything = {name: torch.full_like(value, 7.0) for name, value in module.state_dict().items()}
    ema.load_state_dict({"updates": 5, "average": everything})
    assert ema.updates == 5
    assert ema.average["1.weight"].eq(7).all()
    assert "0.weight" not in ema.average
    with pytest.raises(KeyError, match=r"1\.weight"):
        ema.load_state_dict({"updates": 5, "average": {"0.weight": torch.zeros(2, 2)}})
