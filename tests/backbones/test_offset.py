from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from objemb.backbones._offset import offset, receptive_side
from objemb.backbones._probe import meta_copy
from objemb.backbones.narrow_resnet import NarrowResnet
from objemb.backbones.torchvision_cnn import TorchvisionCnn


class Positive(nn.Module):
    """A network without negative weights, so that no influence of a pixel can cancel out."""

    def __init__(self, layers: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.layers = layers()
        for parameter in self.parameters():
            nn.init.uniform_(parameter, 0.5, 1.0)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layers(pixels)


class Padded(nn.Module):
    """Pads in front of convolutions as TensorFlow does, at even sides: behind only."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 2, 3, 2), nn.Conv2d(2, 2, 3, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.second(F.pad(self.first(F.pad(pixels, (0, 1, 0, 1))), (0, 1, 0, 1)))


class Branches(nn.Module):
    """A residual block behind a gate that sees the whole image."""

    def __init__(self) -> None:
        super().__init__()
        self.long = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, 1, 1))
        self.short = nn.Conv2d(3, 4, 1, 2)
        self.gate = nn.Conv2d(4, 4, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        long = self.long(pixels)
        gate = self.gate(long.detach().mean(dim=(2, 3), keepdim=True)).sigmoid()
        return gate * long + self.short(pixels)


NETWORKS = {
    "padded_threes": lambda: nn.Sequential(nn.Conv2d(3, 4, 7, 2, 3), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)),
    "pools_of_two": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.MaxPool2d(2), nn.AvgPool2d(2)),
    "patches": lambda: nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 4, 7, 1, 3), nn.Conv2d(4, 4, 2, 2)),
    "no_padding": lambda: nn.Sequential(nn.Conv2d(3, 4, 11, 4, 2), nn.MaxPool2d(3, 2)),
    "dilated": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1, dilation=2)),
    "reflected": lambda: nn.Sequential(nn.ReflectionPad2d((2, 0, 2, 0)), nn.Conv2d(3, 4, 3, 2)),
    "padded_behind": Padded,
    "branches": Branches,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_against_the_pixels_that_matter(name: str) -> None:
    """Slow reference: the pixels with a gradient of one cell in the middle; any picture of random pixels will do, since
    a pool of maxima has each of its pixels win on some of them."""
    torch.manual_seed(0)
    network = Positive(NETWORKS[name])
    side, matter = 96, torch.zeros(96, 96, dtype=torch.bool)
    for _ in range(60):
        pixels = torch.rand(1, 3, side, side, requires_grad=True)
        maps = network(pixels)
        row, column = maps.shape[2] // 2, maps.shape[3] // 2 + 1
        maps[0, :, row, column].sum().backward()
        assert pixels.grad is not None
        matter |= pixels.grad[0].abs().sum(dim=0) > 0
    stride = 96 // maps.shape[2] if name != "no_padding" else 8
    ys, xs = matter.any(dim=1).nonzero().flatten(), matter.any(dim=0).nonzero().flatten()
    centre = (float(ys.min() + ys.max() + 1) / 2, float(xs.min() + xs.max() + 1) / 2)
    found = offset(meta_copy(network), stride, side)
    assert (found + (row + 0.5) * stride, found + (column + 0.5) * stride) == centre
    assert receptive_side(meta_copy(network), stride, side) == ys.max() - ys.min() + 1 == xs.max() - xs.min() + 1


def known(arch: str, **settings: str) -> float:
    return TorchvisionCnn(arch, **settings).offset


def test_known_networks() -> None:
    """By hand: padded threes look around the first pixel, pools of two and patches lie at the edge."""
    assert known("resnet18") == known("mobilenet_v3_small") == (1 - 32) / 2
    assert known("resnet18", layer="layer2") == (1 - 8) / 2
    assert known("vgg11") == known("convnext_tiny") == 0
    # conv 11/4 less 2: centre 3.5; pool 3/2: 7.5; pool 3/2: 15.5; three paddings by 1 later 15.5, half of 16 before
    assert known("alexnet") == 7.5
    assert NarrowResnet(width=2, blocks=(1, 1, 1, 1)).offset == (1 - 16) / 2


def test_known_receptive_fields() -> None:
    """The first two as Araujo, Norris and Sim, "Computing receptive fields of convolutional neural networks", Distill
    2019, state them; the third by hand: 11 after the pool, then 3, 4, 6 and 3 kernels of 3."""
    assert TorchvisionCnn("alexnet", layer="features.12").receptive_side() == 195
    assert TorchvisionCnn("vgg16", layer="features.30").receptive_side() == 212
    assert TorchvisionCnn("resnet50").receptive_side() == 11 + 8 * 3 + (8 + 16 * 3) + (16 + 32 * 5) + (32 + 64 * 2)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_in_every_mode(mode: Callable[[], AbstractContextManager[None]]) -> None:
    network = NarrowResnet(width=2, blocks=(1, 1, 1, 1))
    with mode():
        assert network.offsets() == {4: -1.5, 8: -3.5, 16: -7.5}
        assert NarrowResnet(width=2, blocks=(1, 1, 1, 1)).offset == -7.5
        assert known("resnet18") == -15.5


class Joined(nn.Module):
    """Branches that look around pixel 0 and pixels 0 to 1; and a coarser map, made finer again."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.shortcut, self.coarse = nn.Conv2d(3, 2, 3, 2, 1), nn.AvgPool2d(2), nn.Conv2d(3, 2, 3, 4, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        lateral = self.main(pixels) + self.shortcut(pixels)[:, :2]
        return F.interpolate(self.coarse(pixels), scale_factor=2.0) + lateral


def test_branches_that_differ_count_alike() -> None:
    """Centres of 0.5 and 1: 0.75, less a stride of 1."""
    assert offset(meta_copy(Joined()), 2, 16) == -0.25


class Merged(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return F.pixel_unshuffle(pixels, 4)


@pytest.mark.parametrize("network", [Merged(), nn.ConvTranspose2d(3, 2, 4, 2), nn.Conv2d(3, 2, 4, (4, 2))])
def test_what_layers_do_not_explain_lies_at_the_edge(network: nn.Module) -> None:
    """Patches merged by reshaping, maps made finer, and strides that are not alike."""
    assert offset(meta_copy(network), 4, 32) == 0
    assert receptive_side(meta_copy(network), 4, 32) == 4


def test_an_output_that_is_not_of_the_image() -> None:
    class Constant(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            return torch.zeros(1, 2, 3, 3, device="meta")

    assert offset(meta_copy(Constant()), 1, 8) == 0
