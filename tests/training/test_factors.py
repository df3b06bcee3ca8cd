from __future__ import annotations

import fnmatch
from typing import Any

import pytest
import torch
from torch import nn

from objemb.backbones.base import Backbone
from objemb.backbones.narrow_resnet import NarrowResnet
from objemb.backbones.timm_net import TimmNet
from objemb.backbones.torchvision_cnn import TorchvisionCnn
from objemb.detectors.faster_rcnn import FasterRcnn
from objemb.training.factors import below, by_factor

SMALL: dict[str, Any] = {"channels": 8, "box_width": 8, "proposals": 10, "pyramid_strides": [8, 16]}


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))


def sizes(factors: dict[str, float]) -> dict[float, list[int]]:
    return {g["factor"]: [p.numel() for p in g["params"]] for g in by_factor(network(), factors)}


def test_the_last_pattern_that_fits_counts() -> None:
    assert sizes({}) == {1.0: [4, 2, 6, 3]}
    assert sizes({"*": 0.1, "1.*": 1}) == {0.1: [4, 2], 1.0: [6, 3]}
    assert sizes({"1.*": 1, "*": 0.1}) == {0.1: [4, 2, 6, 3]}
    assert sizes({"*": 0, "*.bias": 2}) == {2.0: [2, 3]}


def test_what_is_frozen_stays_whatever_the_factors_say() -> None:
    groups = by_factor(network(), {"*": 0.1, "1.*": 1}, ["0.weight", "1.bias"])
    assert {g["factor"]: [p.numel() for p in g["params"]] for g in groups} == {0.1: [2], 1.0: [6]}
    with pytest.raises(ValueError, match="found all at 0 or frozen"):
        by_factor(network(), {"0.*": 0}, ["1.weight", "1.bias"])


@pytest.mark.parametrize(
    ("arch", "patterns"),
    [
        ("narrow", ["*.network.conv1.*", "*.network.bn1.*", "*.layer1.*", "*.layer2.*"]),
        ("mobilenet_v2", ["*.features.[0-6].*"]),
        ("tf_efficientnet_lite0", ["*.conv_stem.*", "*.network.bn1.*", "*.network.blocks.[0-2].*"]),
    ],
)
def test_below_a_level_lie_the_layers_that_it_is_computed_from(arch: str, patterns: list[str]) -> None:
    trunk: Backbone
    if arch == "narrow":
        trunk = NarrowResnet(width=4, blocks=(1, 1, 1, 1))
    elif arch == "mobilenet_v2":
        trunk = TorchvisionCnn(arch)
    else:
        pytest.importorskip("timm")
        trunk = TimmNet(arch)
    detector = FasterRcnn(trunk, **SMALL)
    detector.requires_grad_(False)
    last = next(iter(detector.network.rpn.parameters())).requires_grad_(True)
    found = below(detector, "trunk8")
    names = [name for name, _ in detector.named_parameters()]
    assert found == {name for pattern in patterns for name in fnmatch.filter(names, pattern)}
    assert [p for p in detector.parameters() if p.requires_grad] == [last], "what was trained before still is"
    assert all(p.grad is None for p in detector.parameters())
    with torch.inference_mode(False), torch.no_grad():
        assert below(detector, "trunk8") == found


def test_mistakes() -> None:
    with pytest.raises(ValueError, match=r"factors: expected patterns of '0.bias', .* found '2\.\*'"):
        sizes({"2.*": 1})
    with pytest.raises(ValueError, match=r"factors\['\*'\]: expected a number from 0"):
        sizes({"*": -1})
    with pytest.raises(ValueError, match="expected at least one parameter that is trained"):
        sizes({"*": 0})
    with pytest.raises(ValueError, match=r"frozen: expected one of '0', '1', .*'trunk16', found 'trunk2'"):
        below(FasterRcnn(NarrowResnet(width=2, blocks=(1, 1, 1, 1)), **SMALL), "trunk2")
