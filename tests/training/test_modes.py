from __future__ import annotations

import torch

from objemb.backbones.narrow_resnet import NarrowResnet
from objemb.training.modes import train_mode


def test_norms_learn_within_and_only_within() -> None:
    torch.manual_seed(0)
    network = NarrowResnet(width=2, blocks=[1, 1, 1, 1], layer="layer1")
    network.train()
    before = network.network.bn1.running_mean.clone()
    network(torch.rand(2, 3, 32, 32))
    assert torch.equal(before, network.network.bn1.running_mean)
    with train_mode(network):
        network(torch.rand(2, 3, 32, 32))
    assert not torch.equal(before, network.network.bn1.running_mean)
    assert not any(m.training for m in network.modules())
