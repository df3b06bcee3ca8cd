"""The resize of bytes in exported graphs, to the byte: in ONNX Runtime, and in OpenVINO, which has no float64 and whole
numbers of 32 bits."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from objemb.export.graphs import Traced
from objemb.export.run import MIN_TORCH, torch_version
from objemb.export.writers import write_graph
from objemb.ops.byte_resize import BYTES, PILLOW, Rounding, resized_parts
from objemb.runtimes.exported import TensorSpec
from objemb.runtimes.openvino import shared_core
from tests.export.test_export import ort
from tests.ops.test_byte_resize import noise, sides

#: Photos and the sizes of two parts of them: the whole photo, and all but its first 2 rows and columns.
CASES = (((480, 360), (24, 18), (30, 21)), ((37, 50), (32, 32), (32, 27)), ((3, 2000), (1, 32), (32, 32)))


class Parts(nn.Module):
    def __init__(self, rounding: Rounding) -> None:
        super().__init__()
        self.rounding = rounding

    def forward(self, photo: Tensor, begin: Tensor, stop: Tensor, sizes: Tensor) -> Tensor:
        return resized_parts(photo, begin, stop, sizes, torch.zeros_like(sizes), (32, 32), self.rounding)


@pytest.mark.skipif(torch_version() < MIN_TORCH, reason="objemb export needs a newer PyTorch")
@pytest.mark.parametrize("rounding", [BYTES, PILLOW], ids=["PyTorch's", "Pillow's"])
def test_runtimes_resize_to_the_same_bytes(rounding: Rounding, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    module, dynamic = Parts(rounding), torch.export.Dim.DYNAMIC
    inputs = [
        (noise(*size), sides((0, 0), (2, 2)), sides(size, size), sides(whole, part)) for size, whole, part in CASES
    ]
    shapes = ({0: dynamic, 1: dynamic}, {0: dynamic}, {0: dynamic}, {0: dynamic})
    program = torch.export.export(module, inputs[0], dynamic_shapes=shapes, strict=False)
    named = [
        ("photo", "uint8", (None, None, 3)),
        *((name, "float64", (None, 2)) for name in ("begin", "stop", "sizes")),
    ]
    outputs = (TensorSpec("parts", "float32", (None, 3, 32, 32)),)
    traced = Traced(program, tuple(TensorSpec(*spec) for spec in named), outputs, {})
    write_graph(traced, tmp_path, "graph", "onnx", "fp32", {})
    graph = ort.InferenceSession(tmp_path / "graph.onnx")
    model = shared_core(os.getpid()).compile_model(tmp_path / "graph.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for given in inputs:
        arrays = [tensor.numpy() for tensor in given]
        expected = module(*given).numpy()
        assert expected.any()
        (found,) = graph.run(None, {name: array for (name, *_), array in zip(named, arrays, strict=True)})
        assert np.array_equal(found, expected)
        assert np.array_equal(model(arrays)[0], expected)
