"""Networks that a tracer can follow by the lengths of tensors alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

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


@pytest.mark.skipif(torch_version() < MIN_TORCH, reason="objemb export needs a newer PyTorch")
@pytest.mark.parametrize("decides", [False, True], ids=["plain", "decides by lengths"])
def test_a_layer_that_decides_by_lengths(decides: bool, capfd: pytest.CaptureFixture[str]) -> None:
    """As those that pad to the same size; what PyTorch prints of the first attempt is kept to itself."""
    layer = layers.Conv2dSame(3, 4, 3, stride=2) if decides else nn.Conv2d(3, 4, 3, stride=2, padding=1)
    module = Resized(nn.Sequential(layer, nn.BatchNorm2d(4), nn.ReLU6(inplace=True))).eval()
    photos = torch.zeros(1, 300, 412, 3, dtype=torch.uint8)
    traced = _export(module, (photos,), ({1: Dim.DYNAMIC, 2: Dim.DYNAMIC},)).module(check_guards=False)
    assert module.resize.reads != decides
    assert "def forward" not in "".join(capfd.readouterr())
    for size in ((60, 80), (31, 90), (1, 1), (128, 128)):
        photo = torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            assert torch.allclose(traced(photo), module(photo), atol=1e-5), size
