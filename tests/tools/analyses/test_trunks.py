from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision import models

from objemb.backbones.base import Backbone
from objemb.backbones.detector_trunk import DetectorTrunk
from objemb.backbones.narrow_resnet import NarrowResnet
from objemb.backbones.torchvision_cnn import TorchvisionCnn
from objemb.cli.programs.analyses.trunks import Trunk, sweep
from objemb.detectors.faster_rcnn import FasterRcnn
from objemb.detectors.torchvision_rcnn import TorchvisionRcnn
from tests.tiny import TinyBackbone


def narrow(**changes: object) -> NarrowResnet:
    return NarrowResnet(**{"width": 4, "blocks": [1, 2, 3, 2], **changes})  # type: ignore[arg-type]


def small_detector(backbone: Backbone) -> FasterRcnn:
    return FasterRcnn(backbone, channels=8, box_width=8, pyramid_strides=[8, 16])


def test_blocks_of_a_resnet_50_are_those_of_the_paper() -> None:
    """He et al. 2016, table 1: 3, 4, 6 and 3 blocks."""
    layers = Trunk(TorchvisionCnn("resnet50")).layers
    wanted = [f"conv{row}_{n}" for row, count in ((2, 3), (3, 4), (4, 6), (5, 3)) for n in range(1, count + 1)]
    assert [layer.name for layer in layers] == wanted
    assert [layer.name for layer in sweep(layers)] == wanted[7:]
    last = layers[-1]
    assert (last.stage, last.stride, last.channels, last.offset) == (5, 32, 2048, -15.5)
    assert {layer.stride: layer.channels for layer in layers} == {4: 256, 8: 512, 16: 1024, 32: 2048}


@torch.no_grad()
def test_maps_of_blocks_are_what_leaves_them() -> None:
    torch.manual_seed(0)
    whole = models.resnet18(weights=None).eval()
    torch.manual_seed(0)
    net = TorchvisionCnn("resnet18")
    pixels = torch.rand(1, 3, 64, 96)
    level: Tensor = whole.maxpool(whole.relu(whole.bn1(whole.conv1((pixels - net.mean) / net.std))))
    maps = Trunk(net).maps(pixels)
    assert list(maps) == [f"conv{row}_{n}" for row in (2, 3, 4, 5) for n in (1, 2)]
    for row, stage in enumerate((whole.layer1, whole.layer2, whole.layer3, whole.layer4), start=2):
        for number, block in enumerate(stage, start=1):
            level = block(level)
            torch.testing.assert_close(maps[f"conv{row}_{number}"], level)


@pytest.mark.parametrize("stride", [16, 32])
def test_a_detector_has_the_layers_of_its_trunk(stride: int) -> None:
    net = narrow(stride=stride)
    own, detecting = Trunk(net), Trunk(DetectorTrunk(detector=small_detector(net)))
    assert own.layers == detecting.layers
    assert [layer.name for layer in sweep(own.layers)] == ["conv4_1", "conv4_2", "conv4_3", "conv5_1", "conv5_2"]
    assert own.layers[-1].stride == stride
    pixels = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for name, map_ in own.maps(pixels).items():
            torch.testing.assert_close(detecting.maps(pixels)[name], map_, rtol=1e-4, atol=1e-4)


def test_a_detector_of_torchvision_has_the_blocks_of_the_classifier() -> None:
    detector = TorchvisionRcnn("fasterrcnn_resnet50_fpn", num_classes=2)
    assert Trunk(DetectorTrunk(detector=detector)).layers == Trunk(TorchvisionCnn("resnet50")).layers


@torch.no_grad()
def test_networks_without_residual_blocks_have_stages() -> None:
    net = TorchvisionCnn("mobilenet_v2")
    trunk = Trunk(net)
    assert [str(layer) for layer in trunk.layers] == ["stride4", "stride8", "stride16", "stride32"]
    assert [layer.name for layer in sweep(trunk.layers)] == ["stride16", "stride32"]
    pixels = torch.rand(1, 3, 64, 96)
    for stride, map_ in net.maps(pixels).items():
        assert torch.equal(trunk.maps(pixels)[f"stride{stride}"], map_)
    assert Trunk(TinyBackbone()).layers == ()


def test_a_network_is_left_as_it_was() -> None:
    net = narrow()
    trunk = Trunk(net)
    with pytest.raises(RuntimeError):
        trunk.maps(torch.rand(1, 5, 64, 64))
    assert not any(module._forward_hooks for module in net.modules())
