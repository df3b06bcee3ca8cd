"""Networks are traced while other threads run networks, as when a service changes its model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

import torch
from torch import nn
from torchvision.models import resnet18
from torchvision.models.feature_extraction import NodePathTracer, create_feature_extractor

from objemb.layers.folded import Folded
from objemb.layers.tracing import OwnThread, with_outputs


class Slow(nn.Module):
    """Another thread runs while this is traced."""

    def __init__(self, during: Event, other: Event) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 1)
        self.during, self.other = during, other

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        self.during.set()
        assert self.other.wait(20)
        return self.layer(pixels)  # type: ignore[no-any-return]


def test_a_network_that_another_thread_runs_is_not_recorded() -> None:
    during, other = Event(), Event()
    slow, running, pixels = Slow(during, other), nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU()), torch.rand(1, 1, 3, 3)
    expected = running(pixels)
    with ThreadPoolExecutor(1) as pool:
        graph = pool.submit(OwnThread().trace, slow)
        assert during.wait(20)
        found, weight = running(pixels), slow.layer.weight
        other.set()
        targets = [str(node.target) for node in graph.result(20).nodes if node.op == "call_module"]
    assert torch.equal(found, expected)
    assert isinstance(weight, nn.Parameter)
    assert targets == ["layer"]
    assert torch.equal(running(pixels), expected)


def test_threads_that_come_at_the_same_time_fold_a_network_once() -> None:
    network = with_outputs(resnet18().eval(), ["layer1", "layer2"])
    assert list(network(torch.rand(1, 3, 32, 32))) == ["layer1", "layer2"]
    pixels, together = torch.rand(1, 3, 32, 32), Barrier(4)
    for _ in range(3):
        folded = Folded(network)

        def run(folded: Folded = folded) -> torch.Tensor:
            together.wait(20)
            with torch.inference_mode():
                return folded(pixels)["layer2"]  # type: ignore[no-any-return]

        with ThreadPoolExecutor(4) as pool:
            found = [future.result(60) for future in [pool.submit(run) for _ in range(4)]]
        assert all(torch.equal(one, found[0]) for one in found)


def test_the_tracer_of_torchvision_is_put_back() -> None:
    from torchvision.models import feature_extraction

    expected = create_feature_extractor(resnet18().eval(), ["layer1"])
    found = with_outputs(resnet18().eval(), ["layer1"], [nn.BatchNorm2d])
    assert str(found.graph) == str(expected.graph)
    assert feature_extraction.NodePathTracer is NodePathTracer
