from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from objemb.backbones.narrow_resnet import NarrowResnet
from objemb.backbones.torchvision_cnn import TorchvisionCnn
from objemb.weights.download import MissingWeightsError
from objemb.weights.read import UnreadableWeightsError

MINIMAL = {"width": 4, "blocks": [1, 1, 1, 1]}


@pytest.mark.parametrize(("stride", "cells"), [(16, (6, 7)), (32, (3, 4))])
def test_channels_and_strides(stride: int, cells: tuple[int, int]) -> None:
    network = NarrowResnet(width=4, blocks=[1, 1, 1, 1], stride=stride)
    assert (network.channels, network.stride) == (32, stride)
    assert network(torch.rand(2, 3, 96, 100)).shape == (2, 32, *cells)
    assert network(torch.rand(1, 3, network.smallest, network.smallest)).shape == (1, 32, 1, 1)


@pytest.mark.parametrize(("layer", "channels", "stride"), [("layer1", 4, 4), ("layer2", 8, 8), ("layer3", 16, 16)])
def test_a_cut_leaves_nothing_behind_it(layer: str, channels: int, stride: int) -> None:
    network = NarrowResnet(width=4, blocks=[1, 1, 1, 1], layer=layer)
    assert (network.channels, network.stride) == (channels, stride)
    assert list(dict(network.network.named_children()))[-1] == layer
    assert network(torch.rand(1, 3, 64, 64)).shape == (1, channels, 64 // stride, 64 // stride)


@pytest.mark.parametrize(
    ("arguments", "stages"),
    [
        ({}, {4: ("layer1", 4), 8: ("layer2", 8), 16: ("layer4", 32)}),
        ({"stride": 32}, {4: ("layer1", 4), 8: ("layer2", 8), 16: ("layer3", 16), 32: ("layer4", 32)}),
        ({"layer": "layer2"}, {4: ("layer1", 4), 8: ("layer2", 8)}),
    ],
)
@torch.no_grad()
def test_maps_of_several_strides(arguments: dict, stages: dict[int, tuple[str, int]]) -> None:
    network = NarrowResnet(width=4, blocks=[1, 1, 1, 1], **arguments)
    assert network.stages == stages
    pixels = torch.rand(1, 3, 64, 96)
    maps = network.maps(pixels)
    assert {s: level.shape[1:] for s, level in maps.items()} == {
        s: (c, 64 // s, 96 // s) for s, (_, c) in stages.items()
    }
    assert torch.equal(maps[network.stride], network(pixels))


def test_full_width_is_the_resnet_of_torchvision(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(resnet18(weights=None).state_dict(), tmp_path / "resnet18.pth")
    narrow = NarrowResnet(width=64, stride=32, weights=tmp_path / "resnet18.pth")
    whole = TorchvisionCnn("resnet18", weights=tmp_path / "resnet18.pth")
    pixels = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(narrow(pixels), whole(pixels), rtol=1e-4, atol=1e-4)  # one has its norms folded
    with pytest.raises(UnreadableWeightsError):
        NarrowResnet(width=8, weights=tmp_path / "resnet18.pth")


def test_it_stays_in_eval_mode_and_keeps_its_input() -> None:
    network = NarrowResnet(width=2, blocks=[1, 1, 1, 1])
    network.train()
    assert not any(m.training for m in network.modules())
    pixels = torch.rand(1, 3, 32, 32)
    kept = pixels.clone()
    network(pixels)
    assert torch.equal(pixels, kept)


def test_bad_values_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="blocks: expected 4 numbers, one a stage, found"):
        NarrowResnet(blocks=[2, 2])
    with pytest.raises(ValueError, match="stride: expected one of 16, 32, found 8"):
        NarrowResnet(stride=8)
    with pytest.raises(ValueError, match="layer: expected one of 'layer1'"):
        NarrowResnet(layer="layer5")
    with pytest.raises(MissingWeightsError):
        NarrowResnet(weights=tmp_path / "none.pth")
