"""Networks that a tracer can follow by the lengths of tensors alone."""

from __future__ import annotations

import math
import operator

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from objemb.backbones.timm_net import traceable_padding
from objemb.detectors._resize_program import ResizeProgram
from objemb.export.graphs import _export
from objemb.export.run import MIN_TORCH, torch_version

layers = pytest.importorskip("timm.layers")


class Resized(nn.Module):
    """A detector's resize and a layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.resize = ResizeProgram(48, 96, 32, torch.zeros(3), torch.ones(3), torch.zeros(3))
        self.layer = layer

    def forward(self, photos: Tensor) -> Tensor:
        found: Tensor = self.layer(self.resize(photos)[0])
        return found


class OfAnySize(nn.Module):
    """A layer on photos of any size."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, photos: Tensor) -> Tensor:
        found: Tensor = self.layer(photos.permute(0, 3, 1, 2) / 255)
        return found


@pytest.mark.skipif(torch_version() < MIN_TORCH, reason="objemb export needs a newer PyTorch")
@pytest.mark.parametrize("input_", [Resized, OfAnySize], ids=["of a detector", "of any size"])
def test_layers_that_pad_to_the_same_size(input_: type[nn.Module]) -> None:
    """By lengths of maps, as networks of timm that come from TensorFlow do, in whole numbers."""
    pool = layers.create_pool2d("max", 2, 3, padding="same")
    padding = (layers.Conv2dSame(3, 4, 3, stride=2), layers.Conv2dSame(4, 4, 5, stride=2), pool)
    module = input_(nn.Sequential(*padding, layers.Conv2dSame(4, 4, 1, stride=2), nn.ReLU6(inplace=True))).eval()
    photos = torch.zeros(1, 300, 412, 3, dtype=torch.uint8)
    program = _export(module, (photos,), ({1: Dim.DYNAMIC, 2: Dim.DYNAMIC},))
    in_floats = (torch.sym_float, math.ceil, operator.truediv)
    assert not [node for node in program.graph.nodes if node.target in in_floats]
    traced = program.module(check_guards=False)
    for size in ((60, 80), (31, 90), (1, 1), (128, 128), (75, 49)):
        photo = torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = module(photo)
            assert torch.allclose(traced(photo), expected, atol=1e-5), size
            with traceable_padding():
                assert torch.equal(module(photo), expected), size
