"""What is known of a network from its shapes alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from objemb.backbones import _probe
from objemb.backbones.base import Backbone
from objemb.backbones.narrow_resnet import NarrowResnet
from objemb.backbones.timm_net import TimmNet
from objemb.backbones.torchvision_cnn import TorchvisionCnn


@pytest.mark.parametrize(
    "build", [lambda: NarrowResnet(width=4), lambda: TorchvisionCnn("resnet18"), lambda: TimmNet("test_byobnet")]
)
def test_norms_and_activations_change_nothing(monkeypatch: pytest.MonkeyPatch, build: Callable[[], Backbone]) -> None:
    pytest.importorskip("timm")

    def known() -> tuple[object, ...]:
        net = build()
        places = net.stages, net.offsets(), net.receptive_side()
        return net.channels, net.stride, net.offset, net.surplus, net.smallest, *places

    without = known()
    monkeypatch.setattr(_probe, "POINTWISE", ())
    assert known() == without


def test_an_empty_copy_leaves_the_network_alone() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4)).eval()
    network[3].train()
    empty = _probe.meta_copy(network)
    assert [type(layer).__name__ for layer in empty] == ["Conv2d", "Identity", "Identity", "BatchNorm2d"]
    assert [type(layer).__name__ for layer in network] == ["Conv2d", "BatchNorm2d", "ReLU", "BatchNorm2d"]
    assert all(tensor.is_meta for tensor in empty.state_dict().values())
    assert not any(tensor.is_meta for tensor in network.state_dict().values())
    network[3].eval()
    assert _probe.map_shape(empty.eval(), 9, 6) == tuple(network(torch.zeros(1, 3, 9, 6)).shape)
