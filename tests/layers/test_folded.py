"""Batch norms folded into convolutions, against the network as it is."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision import models
from torchvision.ops import FrozenBatchNorm2d

from objemb.backbones.narrow_resnet import NarrowResnet
from objemb.backbones.torchvision_cnn import TorchvisionCnn
from objemb.layers import folded
from objemb.layers.folded import Folded, in_turn, unfolded

NORM = "native_batch_norm"


class Small(nn.Module):
    """All that a convolution may be: with a bias or without, grouped, strided, dilated, used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, stride=2, padding=2, dilation=2, groups=4)
        self.bare = nn.BatchNorm2d(8, affine=False)
        self.twice = nn.Conv2d(8, 8, 1)
        self.last = nn.BatchNorm2d(8)

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.bare(self.second(torch.relu(self.norm(self.first(maps)))))
        maps = self.twice(maps)
        return self.last(self.twice(torch.relu(maps))) + maps


class Kept(nn.Module):
    """Norms that no convolution may take: of a map that is used elsewhere, without statistics, of padding by other than
    zeros or by name."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList([nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")])
        self.convolutions += [nn.Conv2d(3, 3, 3, padding="same"), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)]
        self.norms = nn.ModuleList([nn.BatchNorm2d(3, track_running_stats=i == 3) for i in range(4)])

    def forward(self, maps: Tensor) -> Tensor:
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            maps = convolution(maps)
            maps = norm(maps) + maps
        return maps


def traced(network: nn.Module, seed: int = 0) -> fx.GraphModule:
    """In eval mode, with norms that do something."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.weight, module.bias):
                if tensor is not None:
                    nn.init.normal_(tensor, 0.2)
            if module.running_var is not None:
                nn.init.uniform_(module.running_var, 0.5, 2)
    return fx.symbolic_trace(network.eval()).eval()


@contextmanager
def watched() -> Iterator[list[str]]:
    """Names of PyTorch's functions that run."""
    names: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            names.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    with Watch():
        yield names


def same(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and bool((found - expected).abs().max() <= 1e-5 * expected.abs().max())


@torch.no_grad()
def test_a_small_case_by_hand() -> None:
    network = traced(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0)))
    values = {"weight": 3.0, "bias": 1.0}, {"weight": 4.0, "bias": 5.0, "running_mean": 2.0, "running_var": 4.0}
    for layer, of_layer in zip(network.children(), values, strict=True):
        for name, value in of_layer.items():
            getattr(layer, name).fill_(value)
    # (3 x + 1 - 2) / sqrt(4) * 4 + 5 = 6 x + 3
    found = Folded(network)(torch.tensor([[[[0.0, 1.0], [2.0, -1.0]]]]))
    assert found.tolist() == [[[[3.0, 9.0], [15.0, -3.0]]]]


@pytest.mark.parametrize(
    "arch", ["mobilenet_v2", "resnet18", "densenet121", "googlenet", "efficientnet_b0", "vgg11_bn"]
)
@pytest.mark.parametrize("images", [1, 3])
def test_it_is_the_network_up_to_rounding(arch: str, images: int) -> None:
    torch.manual_seed(0)
    backbone = TorchvisionCnn(arch)
    pixels = torch.rand(images, 3, 64, 96)
    with watched() as slow:
        expected = backbone.maps(pixels)  # with gradients
    with torch.no_grad(), watched() as fast:
        found = backbone.maps(pixels)
        part = backbone.maps(pixels, 8)
    assert list(found) == list(expected)
    assert all(same(found[s], expected[s].detach()) for s in expected)
    assert all(same(part[s], expected[s].detach()) for s in part)
    assert NORM in slow
    # the norms of a DenseNet that come before their convolutions stay
    assert fast.count(NORM) < slow.count(NORM) if arch == "densenet121" else NORM not in fast


@pytest.mark.parametrize("network", [Small, Kept])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@torch.no_grad()
def test_every_kind_of_convolution(network: Callable[[], nn.Module], layout: torch.memory_format) -> None:
    original = traced(network())
    pixels = torch.randn(2, 3, 9, 12).contiguous(memory_format=layout)
    before = pixels.clone()
    with watched() as ran:
        found = Folded(original)(pixels)
    assert same(found, original(pixels))
    assert torch.equal(pixels, before)
    assert ran.count(NORM) == (1 if network is Small else 4)  # a layer that is used twice keeps its norm


@torch.no_grad()
def test_changed_weights_are_noticed() -> None:
    original = traced(Small())
    fast, pixels = Folded(original), torch.randn(1, 3, 8, 8)

    def check() -> None:
        found = fast(pixels)
        assert same(found, original(pixels))
        assert not same(found, seen[-1])
        seen.append(found)

    seen = [torch.zeros(1)]
    check()
    original.first.weight.mul_(2)  # type: ignore[operator, union-attr]
    check()
    original.norm.running_var.add_(1)  # type: ignore[operator, union-attr]
    check()
    original.second.bias = nn.Parameter(torch.ones(8))
    check()
    original.load_state_dict(traced(Small(), seed=1).state_dict())
    check()
    original.bare.register_buffer("running_mean", torch.ones(8))  # type: ignore[operator, union-attr]
    check()
    original.double().float().first.weight.data = torch.randn(8, 3, 3, 3)  # type: ignore[union-attr]
    check()
    with torch.enable_grad():
        optimizer = torch.optim.AdamW(original.parameters(), lr=0.1)
        original(pixels).square().sum().backward()
        optimizer.step()
    check()


def test_weights_whose_changes_nobody_counts() -> None:
    with torch.inference_mode():
        original = traced(Small())
        fast, pixels = Folded(original), torch.randn(1, 3, 8, 8)
        before = fast(pixels)
        original.first.weight.mul_(2)  # type: ignore[operator, union-attr]
        assert same(fast(pixels), original(pixels))
        assert not same(fast(pixels), before)


def test_what_is_no_such_case_is_left_to_the_network() -> None:
    original = traced(Small())
    fast, pixels = Folded(original), torch.randn(1, 3, 8, 8)
    fast(pixels).sum().backward()
    assert original.first.weight.grad is not None  # type: ignore[union-attr]
    with torch.no_grad():
        assert torch.equal(fast(pixels[:0]), original(pixels[:0]))
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(fast(pixels), original(pixels))
        assert Folded(copy.deepcopy(original).to("meta"))(pixels.to("meta")).shape == (1, 8, 4, 4)
        seen: list[Tensor] = []
        handle = original.norm.register_forward_hook(lambda m, i, o: seen.append(o))  # type: ignore[operator, union-attr]
        fast(pixels)
        assert len(seen) == 1
        handle.remove()
        assert same(fast(pixels), original(pixels))
        assert len(seen) == 1
        mean = original.norm.running_mean.clone()  # type: ignore[operator, union-attr]
        original.norm.train()  # type: ignore[operator, union-attr]
        fast(pixels)
        assert not torch.equal(original.norm.running_mean, mean)  # type: ignore[arg-type, union-attr]
        assert torch.equal(Folded(original.double())(pixels.double()), original(pixels.double()))
        other = nn.ModuleList([nn.Conv2d(3, 4, 3)])
        other.forward = other[0].forward  # type: ignore[method-assign]  # neither traced nor a sequence
        assert torch.equal(Folded(other)(pixels), other(pixels))


@torch.no_grad()
def test_a_network_can_be_run_as_it_is() -> None:
    original, pixels = traced(Small()), torch.randn(1, 3, 8, 8)
    fast = Folded(original)
    for _ in range(2):
        with watched() as ran, unfolded():
            assert torch.equal(fast(pixels), original(pixels))
        assert ran.count(NORM) == 6
        with watched() as ran:
            fast(pixels)
        assert ran.count(NORM) == 1


@torch.no_grad()
def test_copies_fold_their_own_weights() -> None:
    owner = TorchvisionCnn("mobilenet_v2")
    pixels = torch.rand(1, 3, 32, 32)
    expected, names = owner(pixels), list(owner.state_dict())
    copies = copy.deepcopy(owner), pickle.loads(pickle.dumps(owner))
    for parameter in owner.parameters():
        parameter.zero_()
    assert owner(pixels).abs().max() == 0
    assert all(torch.equal(other(pixels), expected) for other in copies)
    assert list(owner.state_dict()) == names
    assert not any("convolution" in name or "fold" in name for name in names)


@pytest.mark.parametrize("wrong", ["missing", "refused", "other arguments", "other values"])
@torch.no_grad()
def test_onednn_is_used_where_it_is_right(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    def instead(*arguments: object) -> Tensor:
        if wrong == "refused":
            raise RuntimeError("not built with oneDNN")
        if wrong == "other arguments":
            raise TypeError("expected other arguments")
        return right(*arguments) + 0.01

    right, original = torch.mkldnn_convolution, traced(Small())
    pixels = torch.randn(1, 3, 8, 8)
    folded.fastest_convolution.cache_clear()
    if wrong == "missing":
        monkeypatch.delattr(torch, "mkldnn_convolution")
    else:
        monkeypatch.setattr(torch, "mkldnn_convolution", instead)
    try:
        assert same(Folded(original)(pixels), original(pixels))
    finally:
        folded.fastest_convolution.cache_clear()


@torch.no_grad()
def test_onednn_can_be_switched_off() -> None:
    original, pixels = traced(Small()), torch.randn(1, 3, 8, 8)
    with torch.backends.mkldnn.flags(enabled=False), watched() as ran:
        found = Folded(original)(pixels)
    assert "mkldnn_convolution" not in ran
    assert same(found, original(pixels))


@pytest.mark.parametrize("arch", ["fasterrcnn_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn"])
@torch.no_grad()
def test_layers_in_turn_and_norms_without_a_mode(arch: str) -> None:
    body = models.get_model(arch, weights=None, weights_backbone=None).eval().backbone.body
    pixels, names = torch.rand(1, 3, 64, 96), list(dict(body.named_children()))
    network = in_turn(body, (names[2], names[-2]))
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, FrozenBatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.bias)
    found, expected, maps = Folded(network)(pixels), {}, pixels
    for name, layer in body.named_children():
        maps = layer(maps)
        expected[name] = maps.clone()
    assert list(found) == [names[2], names[-2]]
    assert all(same(found[name], expected[name]) for name in found)
    fast = Folded(network)
    fast(pixels)
    with watched() as ran:
        fast(pixels)
    assert "rsqrt" not in ran  # no norm runs
    for name, parameter in body.named_buffers():
        if name.endswith("running_var"):
            parameter.add_(1)
    assert not same(fast(pixels)[names[-2]], found[names[-2]])


@torch.no_grad()
@pytest.mark.parametrize(
    ("upper", "channels"), [(TorchvisionCnn("resnet50").upper(8), 512), (NarrowResnet(width=8).upper(8), 16)]
)
def test_a_residual_network_has_no_norm_left(upper: nn.Module, channels: int) -> None:
    """Traced, and in sequence."""
    maps = torch.randn(2, channels, 5, 6)
    with watched() as ran:
        found = Folded(upper)(maps)
    assert NORM not in ran
    assert same(found, upper(maps))
