from __future__ import annotations

import copy
import pickle

import torch
from torch import fx, nn

from objemb.layers.frozen import Frozen


class Network(Frozen):
    """Never says that it wants to be in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())
        self.add_module("more", nn.Sequential(nn.Dropout()))


def modes(network: nn.Module) -> set[bool]:
    return {module.training for module in network.modules()}


def test_layers_are_frozen_from_the_start_whatever_the_mode() -> None:
    assert modes(Network()) == {False}
    assert modes(Network().train()) == {False}
    assert modes(nn.Sequential(Network()).train()[0]) == {False}
    vectors = torch.rand(4, 2)
    network = Network()
    assert torch.equal(network.body(vectors)[:1], network.body(vectors[:1]))


def test_parts_that_come_later() -> None:
    network = Network()
    network.head = nn.Sequential(nn.BatchNorm1d(2))
    network.register_module("tail", nn.Dropout())
    assert modes(network) == {False}
    network.head = None
    assert network.head is None


def test_copies() -> None:
    network = Network()
    network.graph = fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2), nn.Dropout()))
    assert modes(network) == {False}
    for other in (copy.deepcopy(network), copy.copy(network), pickle.loads(pickle.dumps(Network()))):
        assert modes(other) == {False}
    assert copy.deepcopy(network).body[0].weight is not network.body[0].weight


def test_a_part_can_be_put_into_training_by_itself() -> None:
    network = Network()
    network.body[1].train()
    assert network.body[1].training
    network.train()
    assert modes(network) == {False}
