"""Sizes of inputs in exported graphs, which have to fit into the 32 bits in which OpenVINO computes whole numbers."""

from __future__ import annotations

import os
import random
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from objemb.backbones.narrow_resnet import NarrowResnet
from objemb.detectors._resize_program import ResizeProgram
from objemb.export.run import MIN_TORCH, torch_version
from objemb.extractors._maps import Sampling
from objemb.extractors._program import PARTS, MapProgram, _nearest
from objemb.runtimes.openvino import shared_core

#: The longest side that graphs are exact for.
LONGEST = 32_767


class Int32(int):
    """A whole number that no operation may take beyond 32 bits."""

    def __new__(cls, value: int) -> Int32:
        assert -(1 << 31) <= value < 1 << 31, value
        return super().__new__(cls, value)

    def __add__(self, other: int) -> Int32:
        return Int32(int(self) + int(other))

    def __sub__(self, other: int) -> Int32:
        return Int32(int(self) - int(other))

    def __mul__(self, other: int) -> Int32:
        return Int32(int(self) * int(other))

    def __floordiv__(self, other: int) -> Int32:
        return Int32(int(self) // int(other))

    __radd__, __rmul__ = __add__, __mul__


def test_rounding_in_32_bits() -> None:
    """Against fractions: both sides, small and large photos, scales that are no whole number."""
    numbers = random.Random(0)
    for _ in range(4000):
        length = numbers.randint(1, LONGEST)
        side = numbers.choice([length, numbers.randint(1, LONGEST), numbers.randint(1, length)])
        target = numbers.choice([1024 * PARTS, round(1024 * 0.7071 * PARTS), numbers.randint(1, 1400 * PARTS)])
        if side * target > length * (1 << 31):  # a photo whose longer side would not fit, either
            continue
        found = _nearest(Int32(side), Int32(target), Int32(length))
        assert found == (Fraction(side * target, length * PARTS) + Fraction(1, 2)).__floor__(), (side, target, length)


def test_halves_go_up() -> None:
    assert _nearest(1, 5 * PARTS, 2) == 3
    assert _nearest(1, 5 * PARTS - 1, 2) == 2
    assert _nearest(3, 2 * PARTS, 4) == 2


class Sizes(nn.Module):
    """The sizes at which a map and a detector take a photo: a graph that is quick to make."""

    def __init__(self, map_: MapProgram, resize: ResizeProgram) -> None:
        super().__init__()
        self.map, self.resize = map_, resize

    def forward(self, photos: Tensor) -> Tensor:
        height, width = photos.shape[1:3]
        shape = self.map._shape((height, width))
        size = self.resize._size((height, width), (torch.sym_min(height, width), torch.sym_max(height, width)))
        return torch.cat([torch.stack([torch.full((), 1.0) * side for side in shape]), size])


@pytest.mark.skipif(torch_version() < MIN_TORCH, reason="objemb export needs a newer PyTorch")
def test_openvino_computes_the_same_sizes(tmp_path: Any) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("onnxscript")
    backbone = NarrowResnet(width=2, blocks=[1, 1, 1, 1])
    zeros = torch.zeros(3)
    sizes = Sizes(
        MapProgram(backbone, 1024.0, "longest", True, Sampling("cells", 1, False), 0.7071),
        ResizeProgram(800, 1333, 32, zeros, zeros + 1, zeros),
    )
    photos = torch.zeros(1, 40, 60, 3, dtype=torch.uint8)
    dynamic = torch.export.Dim.DYNAMIC
    program = torch.export.export(sizes, (photos,), dynamic_shapes=({1: dynamic, 2: dynamic},), strict=False)
    torch.onnx.export(program, dynamo=True, verbose=False).save(tmp_path / "sizes.onnx")
    model = shared_core(os.getpid()).compile_model(tmp_path / "sizes.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for height, width in ((300, 412), (5000, 8000), (20, 30_000), (30_000, 1), (1, 1), (2999, 7000)):
        found = model(np.zeros((1, height, width, 3), np.uint8))[0]
        expected = sizes(torch.zeros(1, height, width, 3, dtype=torch.uint8)).numpy()
        assert np.array_equal(found, expected), (height, width)
