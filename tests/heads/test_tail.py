from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from objemb.backbones.base import Backbone
from objemb.backbones.narrow_resnet import NarrowResnet
from objemb.backbones.torchvision_cnn import TorchvisionCnn
from objemb.heads.tail import Tail
from objemb.layers.whitening import Whitening
from objemb.ops.tensors import l2
from objemb.pooling.max import Max
from objemb.pooling.mean import Mean
from tests.tiny import TinyBackbone

MINIMAL = {
    "backbone": {"name": "narrow_resnet", "width": 4, "blocks": [1, 1, 1, 1]},
    "pooling": {"name": "mean"},
    "dim": 6,
    "samples": 5,
}

LEVELS = {"0": (5, 4), "trunk4": (4, 4), "trunk8": (8, 8), "trunk16": (32, 16)}
PYRAMID = ("0",)


def narrow(seed: int = 0, **arguments: Any) -> NarrowResnet:
    torch.manual_seed(seed)
    return NarrowResnet(**{"width": 4, "blocks": [1, 1, 1, 1], **arguments})


def connected(backbone: Backbone | None = None, **arguments: Any) -> Tail:
    torch.manual_seed(1)
    head = Tail(**{"backbone": backbone or narrow(), "pooling": Mean(), "dim": 6, "samples": 4, **arguments})
    head.connect(LEVELS, PYRAMID)
    return head


def whitening(length: int = 32, dim: int = 6) -> Whitening:
    vectors = l2(torch.rand(50, length, generator=torch.Generator().manual_seed(0)))
    return Whitening.fit(vectors, dim, fitted_on="noise")


def test_the_whole_map_of_the_trunk_is_what_the_network_would_have_made_of_it() -> None:
    """Samples at the very cells, so that nothing is interpolated."""
    backbone, pixels = narrow(), torch.rand(2, 3, 64, 64)
    head = connected(backbone, samples=8, anchor="middle")
    head.initialise(backbone, whitening())
    with torch.no_grad():
        pooled = l2(backbone(pixels).mean(dim=(2, 3)))
        found = head([backbone.maps(pixels)[8]], [torch.tensor([[0.0, 0, 64, 64]])] * 2)
    assert torch.allclose(found, whitening()(pooled), atol=1e-5)


def test_any_stride_below_the_last() -> None:
    backbone = narrow()
    head = connected(backbone, stride=4, pooling=Max(), dim=None)
    assert head.dim == 32
    maps = torch.rand(1, 4, 10, 10)
    with torch.no_grad():
        samples = head.sampled_rois([maps], torch.tensor([[0.0, 4, 4, 30, 22]]))
        expected = backbone.network[5:](samples).amax(dim=(2, 3))
        assert torch.allclose(head([maps], [torch.tensor([[4.0, 4, 30, 22]])]), F.normalize(expected), atol=1e-6)


def test_it_is_a_copy_of_the_upper_stages_alone() -> None:
    backbone = narrow()
    head = connected(backbone)
    assert {name.split(".")[0] for name in head.upper.state_dict()} == {"layer3", "layer4"}
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
    assert all(p.any() for p in backbone.network.layer4[0].conv1.parameters())


def test_further_levels_come_in_as_zero() -> None:
    maps = [torch.rand(1, 8, 6, 6), torch.rand(1, 4, 12, 12), torch.rand(1, 32, 3, 3)]
    boxes = [torch.tensor([[5.0, 3, 40, 44]])]
    alone, all_of_them = connected(), connected(levels=["trunk8", "trunk4", "trunk16"])
    all_of_them.load_state_dict(alone.state_dict(), strict=False)
    assert torch.allclose(all_of_them(maps, boxes), alone(maps[:1], boxes), atol=1e-6)
    all_of_them(maps, boxes)[:, 0].sum().backward()
    assert all_of_them.adapter is not None
    assert all_of_them.adapter.weight.grad is not None
    assert all_of_them.adapter.weight.grad.flatten(1).any(0).all(), "each of them can be learned to be used"


def test_a_level_of_other_channels_is_led_over() -> None:
    head = connected(levels=["0"])
    assert head.adapter is not None
    assert tuple(head.adapter.weight.shape) == (8, 5, 1, 1)
    assert head.adapter.weight.any()


def test_starting_from_a_teacher_takes_its_weights_and_its_whitening() -> None:
    teacher, head = narrow(seed=5), connected(narrow(seed=6))
    maps, boxes = [torch.rand(1, 8, 6, 6)], [torch.tensor([[5.0, 3, 40, 44]])]
    head.initialise(teacher, whitening())
    pooled = connected(teacher, dim=None)(maps, boxes)
    assert torch.allclose(head(maps, boxes), whitening()(pooled), atol=1e-5)
    assert torch.allclose(head(maps, boxes, unit=False), whitening().map(pooled), atol=1e-5)
    unwhitened = connected(narrow(seed=6), dim=None)
    unwhitened.initialise(teacher, None)
    assert torch.allclose(unwhitened(maps, boxes), pooled, atol=1e-6)


def test_batch_norm_does_not_learn_statistics() -> None:
    head = connected()
    head.train()
    before = {k: v.clone() for k, v in head.state_dict().items()}
    head([torch.rand(1, 8, 6, 6)], [torch.tensor([[5.0, 3, 40, 44]])]).sum().backward()
    assert all(torch.equal(v, before[k]) for k, v in head.state_dict().items())


def test_networks_of_torchvision() -> None:
    torch.manual_seed(0)
    backbone = TorchvisionCnn("mobilenet_v2")
    head = Tail(backbone=backbone, pooling=Mean(), dim=6, samples=3)
    assert head.connect({"trunk8": (32, 8)}, ()) == ("trunk8",)
    assert head([torch.rand(1, 32, 6, 6)], [torch.tensor([[5.0, 3, 40, 44]])]).shape == (1, 6)


def test_mistakes_are_named() -> None:
    with pytest.raises(TypeError, match=r"upper layers can be taken.*found TinyBackbone"):
        connected(TinyBackbone())
    with pytest.raises(ValueError, match="stride: expected one of 4, 8, found 16"):
        connected(stride=16)
    with pytest.raises(ValueError, match="dim: expected an integer"):
        connected(dim=0)
    with pytest.raises(ValueError, match="whitening: expected one to dim=6, found none"):
        connected().initialise(narrow(), None)
    with pytest.raises(ValueError, match="whitening: expected one to dim=6, found one to 5"):
        connected().initialise(narrow(), whitening(dim=5))
    with pytest.raises(ValueError, match="whitening: expected none, found one to 6"):
        connected(dim=None).initialise(narrow(), whitening())
    with pytest.raises(ValueError, match=r"upper stages as in the head, with 'layer3.0.conv1.weight' of shape"):
        connected().initialise(narrow(width=8), whitening())
