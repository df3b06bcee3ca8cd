"""A runtime that stops a non-maximum suppression early gives the first of what it would keep."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from objemb.export.graphs import Traced
from objemb.export.writers import write_graph
from objemb.layers.first_kept import FirstKept
from objemb.models import Model
from objemb.runtimes.exported import TensorSpec
from tests.export.test_export import onnx, ort

MOST = 7


class Suppression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = FirstKept(0.3, MOST)

    def forward(self, boxes: Tensor, scores: Tensor) -> Tensor:
        return self.first(boxes, scores)


def limits(file: Path) -> list[int]:
    """The third input of each non-maximum suppression: at most so many boxes."""
    graph = onnx.load(file).graph
    numbers = {weight.name: onnx.numpy_helper.to_array(weight) for weight in graph.initializer}
    return [int(numbers[n.input[2]].item()) for n in graph.node if n.op_type == "NonMaxSuppression"]


@pytest.mark.parametrize("grid", [1, 30], ids=["many equal scores", "hardly any equal scores"])
def test_the_first_boxes_that_are_kept(grid: int, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(grid)
    corners = torch.rand(400, 2, generator=generator) * 50
    boxes = torch.cat([corners, corners + 5 + torch.rand(400, 2, generator=generator) * 20], dim=1)
    scores = (torch.rand(400, generator=generator) * 5 * grid).round()
    module = Suppression()
    program = torch.export.export(module, (boxes, scores))
    specs = (TensorSpec("boxes", "float32", (400, 4)), TensorSpec("scores", "float32", (400,)))
    traced = Traced(program, specs, (TensorSpec("kept", "int64", (None,)),), {"first": MOST})
    write_graph(traced, tmp_path, "graph", "onnx", "fp32", {})
    assert limits(tmp_path / "graph.onnx") == [MOST]
    (kept,) = ort.InferenceSession(tmp_path / "graph.onnx").run(
        None, {"boxes": boxes.numpy(), "scores": scores.numpy()}
    )
    expected = module(boxes, scores).numpy()
    assert len(expected) > MOST
    assert len(kept) == MOST
    assert np.array_equal(scores[kept], scores[expected[:MOST]]), "boxes of equal scores have no order"
    if grid > 1:
        assert np.array_equal(kept, expected[:MOST])


def test_where_the_graphs_of_a_model_stop(model: Model, folder: Path) -> None:
    """The proposals of each level, the boxes of the detector, and those that are chosen of them."""
    settings = model.settings["describer"]["detector"]
    proposals, found = settings["proposals"], settings["max_detections"]
    *of_levels, of_detector, chosen = limits(folder / "photos.onnx")
    assert set(of_levels) == {proposals}
    assert (of_detector, chosen) == (found, 4)
