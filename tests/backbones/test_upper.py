"""The upper layers of a network, taken out of it."""

from __future__ import annotations

import copy

import pytest
import torch
from torchvision.models.feature_extraction import create_feature_extractor

from objemb.backbones._cut import upper_part
from objemb.backbones.base import Backbone
from objemb.backbones.narrow_resnet import NarrowResnet
from objemb.backbones.timm_net import TimmNet
from objemb.backbones.torchvision_cnn import TorchvisionCnn
from tests.tiny import TinyBackbone

#: Networks of timm: layers that pad by the size of what they see, residual blocks, a norm behind the last map, squeezed
#: channels, slices of rows, attention on cells.
OF_TIMM = [
    *("tf_efficientnet_lite0", "tf_efficientnet_lite2", "test_resnet", "test_convnext"),
    *("mobilenetv3_small_050", "vovnet39a", "efficientvit_b0"),
]


def network(name: str) -> Backbone:
    torch.manual_seed(0)
    if name in OF_TIMM:
        pytest.importorskip("timm")
        return TimmNet(name)
    return NarrowResnet(width=4, blocks=(1, 1, 1, 1)) if name == "narrow" else TorchvisionCnn(name)


@pytest.mark.parametrize("name", ["narrow", "resnet18", "mobilenet_v2", "densenet121", "vgg11", "googlenet", *OF_TIMM])
@torch.no_grad()
def test_a_map_goes_on_to_the_last_one(name: str) -> None:
    backbone = network(name)
    pixels = torch.rand(1, 3, 96, 128)
    maps, last = backbone.maps(pixels), backbone(pixels)
    assert list(maps) == list(backbone.stages) == [4, 8, 16, 32][: len(maps)]
    for stride in list(backbone.stages)[:-1]:
        upper, before = backbone.upper(stride), maps[stride].clone()
        assert (upper(maps[stride]) - last).abs().max() <= 1e-5 * last.abs().max()
        assert torch.equal(maps[stride], before)
        assert not any(m.training for m in upper.modules())
        own, all_of_them = (sum(p.numel() for p in n.parameters()) for n in (upper, backbone))
        assert 0 < own < all_of_them


def test_it_is_a_copy() -> None:
    for backbone in (network("narrow"), network("resnet18"), network("test_resnet")):
        before = {k: v.clone() for k, v in backbone.state_dict().items()}
        for parameter in backbone.upper(8).parameters():
            parameter.data.zero_()
        assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())


def test_mistakes_are_named() -> None:
    for stride in (32, 2):
        with pytest.raises(ValueError, match=f"stride: expected one of 4, 8, 16, found {stride}"):
            network("resnet18").upper(stride)
    with pytest.raises(TypeError, match=r"whose upper layers can be taken.*found TinyBackbone"):
        TinyBackbone().upper(8)


def test_a_map_that_is_not_all_there_is() -> None:
    class Forked(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = torch.nn.Conv2d(3, 3, 1), torch.nn.Conv2d(3, 3, 1)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.two(self.one(pixels)) + pixels

    traced = create_feature_extractor(Forked().eval(), ["one", "two", "add"])
    assert upper_part(traced, "one", "two")(torch.ones(1, 3, 2, 2)).shape == (1, 3, 2, 2)
    with pytest.raises(
        ValueError, match="expected a map from which all later layers are computed, found 'one', which lacks"
    ):
        upper_part(traced, "one", "add")


@pytest.mark.parametrize("name", ["narrow", "resnet18", "mobilenet_v2", "densenet121", "googlenet", *OF_TIMM])
@torch.no_grad()
def test_maps_up_to_a_stride_are_those_of_all(name: str) -> None:
    net = network(name)
    pixels = torch.rand(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    everything = net.maps(pixels)
    for coarsest in net.stages:
        some = net.maps(pixels, coarsest)
        assert list(some) == [stride for stride in net.stages if stride <= coarsest]
        assert all(torch.allclose(map_, everything[stride], atol=1e-5) for stride, map_ in some.items())
    with pytest.raises(ValueError, match="coarsest: expected one of"):
        net.maps(pixels, 3)


@torch.no_grad()
def test_the_lower_layers_are_those_of_the_network_itself() -> None:
    """They follow a change of its weights, are in no state twice, and are the copy's own in a copy."""
    net = TorchvisionCnn("mobilenet_v2")
    pixels, names = torch.rand(1, 3, 64, 64), list(net.state_dict())
    net.maps(pixels, 8)
    assert list(net.state_dict()) == names
    other = copy.deepcopy(net)
    for parameter in other.parameters():
        parameter.mul_(1.1)
    assert torch.equal(other.maps(pixels, 8)[8], other.maps(pixels)[8])
    assert torch.equal(net.maps(pixels, 8)[8], net.maps(pixels)[8])
    assert not torch.equal(net.maps(pixels, 8)[8], other.maps(pixels, 8)[8])
