from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision import models

from objemb.weights.classifiers import _renamed, checked_layer, classifier_network, fill_from, layer_names
from objemb.weights.read import UnreadableWeightsError

SMALL = "squeezenet1_1"


def test_layers_by_name() -> None:
    net = classifier_network(SMALL)
    assert not net.training
    names = layer_names(net)
    assert names[:2] == ["features", "features.0"]
    assert names[-1] == "flatten"
    assert layer_names(net, r"classifier\.\d") == ["classifier.0", "classifier.1", "classifier.2", "classifier.3"]
    assert checked_layer(net, "features.3.expand1x1", ".*") == "features.3.expand1x1"
    with pytest.raises(
        ValueError, match=r"found 'clasifier\.1' \(did you mean 'classifier\.1'\?\); some are 'flatten'"
    ):
        checked_layer(net, "clasifier.1", "flatten")


def test_parts_are_filled(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = models.get_model(SMALL, weights=None)
    torch.save(whole.state_dict(), tmp_path / "net.pth")
    torch.manual_seed(1)
    net = classifier_network(SMALL)
    first, rest = torch.nn.Module(), torch.nn.Module()
    first.add_module("features", net.features)
    rest.add_module("classifier", net.classifier)
    fill_from(tmp_path / "net.pth", SMALL, net, first, rest)
    assert all(torch.equal(net.state_dict()[k], v) for k, v in whole.state_dict().items())
    torch.save(first.state_dict(), tmp_path / "part.pth")
    with pytest.raises(UnreadableWeightsError, match="2 tensors of the network are missing"):
        fill_from(tmp_path / "part.pth", SMALL, net, first, rest)


def test_what_is_no_network() -> None:
    with pytest.raises(ValueError, match="arch: expected a convolutional network, found the transformer 'vit_b_16'"):
        classifier_network("vit_b_16")
    with pytest.raises(ValueError, match=r"arch: expected one of .*did you mean 'resnet50'"):
        classifier_network("resnet5")


def test_old_names_of_densenet_are_translated() -> None:
    names = models.densenet121(weights=None).state_dict()
    old = {n.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): v for n, v in names.items()}
    assert _renamed(old).keys() == names.keys()
