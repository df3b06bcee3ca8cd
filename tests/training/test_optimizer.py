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
from objemb.training.optimizer import (
    groups_by_factor,
    learning_rate,
    make_optimizer,
    parameters_below,
    set_learning_rate,
)
from objemb.training.settings import RunSettings

SETTINGS = RunSettings(steps=1, batch=1, lr=0.5, weight_decay=0.1)
SMALL: dict[str, Any] = {"channels": 8, "box_width": 8, "proposals": 10, "pyramid_strides": [8, 16]}


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
    with pytest.raises(ValueError, match="expected parameters to train, found none"):
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


def test_warm_up_then_cosine() -> None:
    settings = RunSettings(steps=8, batch=1, lr=2.0, warmup=4)
    found = [learning_rate(step, settings) for step in range(9)]
    half = 2**0.5 / 2
    assert found == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 1 + half, 1.0, 1 - half, 0.0])


def test_constant_and_no_warm_up() -> None:
    assert learning_rate(7, RunSettings(steps=8, batch=1, lr=2.0, schedule="constant")) == 2.0
    assert learning_rate(0, RunSettings(steps=8, batch=1, lr=2.0)) == 2.0
    assert learning_rate(3, RunSettings(steps=4, batch=1, lr=2.0, warmup=4)) == 2.0


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))


def sizes(factors: dict[str, float]) -> dict[float, list[int]]:
    return {g["factor"]: [p.numel() for p in g["params"]] for g in groups_by_factor(network(), factors)}


def test_the_last_pattern_that_fits_counts() -> None:
    assert sizes({}) == {1.0: [4, 2, 6, 3]}
    assert sizes({"*": 0.1, "1.*": 1}) == {0.1: [4, 2], 1.0: [6, 3]}
    assert sizes({"1.*": 1, "*": 0.1}) == {0.1: [4, 2, 6, 3]}
    assert sizes({"*": 0, "*.bias": 2}) == {2.0: [2, 3]}


def test_what_is_frozen_stays_whatever_the_factors_say() -> None:
    groups = groups_by_factor(network(), {"*": 0.1, "1.*": 1}, ["0.weight", "1.bias"])
    assert {g["factor"]: [p.numel() for p in g["params"]] for g in groups} == {0.1: [2], 1.0: [6]}
    with pytest.raises(ValueError, match="found all frozen or with factor 0"):
        groups_by_factor(network(), {"0.*": 0}, ["1.weight", "1.bias"])


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
    found = parameters_below(detector, "trunk8")
    names = [name for name, _ in detector.named_parameters()]
    assert found == {name for pattern in patterns for name in fnmatch.filter(names, pattern)}
    assert [p for p in detector.parameters() if p.requires_grad] == [last], "what was trained before still is"
    assert all(p.grad is None for p in detector.parameters())
    with torch.inference_mode(False), torch.no_grad():
        assert parameters_below(detector, "trunk8") == found


def test_mistakes_of_factors() -> None:
    with pytest.raises(ValueError, match=r"factors: expected patterns of '0.bias', .* found '2\.\*'"):
        sizes({"2.*": 1})
    with pytest.raises(ValueError, match=r"factors\['\*'\]: expected a number from 0"):
        sizes({"*": -1})
    with pytest.raises(ValueError, match="expected at least one parameter to train"):
        sizes({"*": 0})
    with pytest.raises(ValueError, match=r"frozen: expected one of '0', '1', .*'trunk16', found 'trunk2'"):
        parameters_below(FasterRcnn(NarrowResnet(width=2, blocks=(1, 1, 1, 1)), **SMALL), "trunk2")
