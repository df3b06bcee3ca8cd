import copy
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from objemb.backbones.narrow_resnet import NarrowResnet
from objemb.layers.strided import guard_strided
from objemb.training.task import build_task
from tests.training.tasks.test_classify import TASK

# The gradient of a guarded convolution beside that of float64, on a processor without AVX-512 and with one thread and
# several. It runs as a program of its own, because what it guards against ends the process.
PROGRAM = """
import torch
from tests.layers.test_strided import largest_error
for threads in (1, 2):
    torch.set_num_threads(threads)
    print(max(largest_error(channels, side, 0) for channels in (1, 2, 4, 7, 8, 12, 15) for side in (32, 97)))
"""


def gradient(layer: nn.Conv2d, pixels: Tensor) -> Tensor:
    return torch.autograd.grad(layer(pixels).square().sum(), layer.weight)[0]


def largest_error(channels: int, side: int, seed: int) -> float:
    """Relative to the largest value of the gradient."""
    torch.manual_seed(seed)
    layer = nn.Conv2d(channels, 8, 1, stride=2, bias=False)
    exact = copy.deepcopy(layer).double()
    guard_strided(layer)
    pixels = torch.randn(4, channels, side, side).to(memory_format=torch.channels_last)
    truth = gradient(exact, pixels.double().contiguous())
    return ((gradient(layer, pixels) - truth).abs().max() / truth.abs().max()).item()


@pytest.mark.parametrize("processor", ["AVX2", "ALL"])
def test_gradients_are_right_on_every_processor(processor: str) -> None:
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": processor, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True, text=True, env=environment, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert max(map(float, done.stdout.split())) < 1e-5


def seen_by(network: nn.Module, pixels: Tensor) -> list[bool]:
    """Whether each strided 1 x 1 convolution saw a contiguous input, in the order in which they ran."""
    seen: list[bool] = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
            layer.register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0].is_contiguous()))
    network(pixels)
    return seen


def test_narrow_layers_alone_are_guarded_and_copies_are_too() -> None:
    pixels = torch.rand(2, 3, 64, 64).to(memory_format=torch.channels_last)
    network = NarrowResnet(width=4, blocks=[1, 1, 1, 1], stride=32)
    # inputs of the three shortcuts: 4, 8 and 16 channels; the last has enough
    assert seen_by(copy.deepcopy(network), pixels) == [True, True, False]
    assert seen_by(NarrowResnet(width=16, blocks=[1, 1, 1, 1], stride=32), pixels) == [False, False, False]
    with torch.no_grad():  # describing costs nothing more
        assert seen_by(copy.deepcopy(network), pixels) == [False, False, False]


def test_only_what_the_fault_touches_is_guarded_and_once() -> None:
    layers = {
        "strided": nn.Conv2d(4, 8, 1, stride=2),
        "one direction": nn.Conv2d(4, 8, 1, stride=(1, 2)),
        "not strided": nn.Conv2d(4, 8, 1),
        "grouped": nn.Conv2d(4, 8, 1, stride=2, groups=4),
        "wide kernel": nn.Conv2d(4, 8, 3, stride=2),
        "wide": nn.Conv2d(16, 8, 1, stride=2),
    }
    for _ in range(2):
        guard_strided(nn.ModuleDict(layers))
    guards = {name: len(layer._forward_pre_hooks) for name, layer in layers.items()}
    assert guards == {**dict.fromkeys(layers, 0), "strided": 1, "one direction": 1}


def test_tasks_guard_the_networks_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("objemb.backbones.narrow_resnet.guard_strided", lambda network: None)
    task = build_task(TASK)
    narrow = [m for m in task.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) and m.in_channels < 16]
    assert narrow
    assert all(len(layer._forward_pre_hooks) == 1 for layer in narrow)
