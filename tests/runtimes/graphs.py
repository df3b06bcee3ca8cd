"""Small graphs of the contract of exported models, in every format, whose answers are found by hand."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from objemb.card import read_card, write_folder
from objemb.runtimes.exported import BOXES, EXPORT, PHOTOS, Exported, Graph, TensorSpec
from objemb.runtimes.openvino import shared_core
from objemb.types import AnyArray, Float32Array

DIM = 4
#: Colours to vectors, not normalised: the graphs are to be told by their numbers.
PROJECTION = np.random.default_rng(0).standard_normal((3, DIM)).astype(np.float32)
GRAPHS: Mapping[str, tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]] = {
    PHOTOS: (
        (TensorSpec("photos", "uint8", (1, None, None, 3)),),
        (TensorSpec("whole", "float32", (1, DIM)), TensorSpec("count", "int64", (1,))),
    ),
    BOXES: (
        (TensorSpec("photo", "uint8", (None, None, 3)), TensorSpec("boxes", "float32", (None, 4))),
        (TensorSpec("vectors", "float32", (None, DIM)),),
    ),
}
SUFFIXES = {"onnx": (".onnx",), "openvino": (".xml", ".bin"), "pt2": (".pt2",)}


def expected(arrays: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
    """What the graphs give: the mean colour of the photo times the projection, plus the sum of each box's edges."""
    if "photos" in arrays:
        photos = arrays["photos"].astype(np.float32)
        whole = photos.mean(axis=(1, 2)) @ PROJECTION
        return {"whole": whole, "count": np.array([photos.shape[1] * photos.shape[2]])}
    vectors: Float32Array = arrays["photo"].astype(np.float32).mean(axis=(0, 1)) @ PROJECTION
    return {"vectors": vectors[None] + arrays["boxes"].sum(axis=1, keepdims=True)}


def onnx_graph(name: str) -> Any:
    onnx = pytest.importorskip("onnx")
    made, types = onnx.helper, {"uint8": onnx.TensorProto.UINT8, "float32": onnx.TensorProto.FLOAT}
    types["int64"] = onnx.TensorProto.INT64
    inputs, outputs = (
        [made.make_tensor_value_info(t.name, types[t.dtype], t.shape) for t in specs] for specs in GRAPHS[name]
    )
    photo, axes = (("photos", [1, 2]), ("photo", [0, 1]))[name == BOXES]
    nodes = [
        made.make_node("Cast", [photo], ["floats"], to=onnx.TensorProto.FLOAT),
        made.make_node("ReduceMean", ["floats", "axes"], ["colour"], keepdims=0),
        made.make_node("MatMul", ["colour", "projection"], ["whole"]),
    ]
    values = {"axes": np.array(axes), "projection": PROJECTION}
    if name == PHOTOS:
        values["sides"] = np.array([1, 2])
        nodes += [
            made.make_node("Shape", ["photos"], ["shape"]),
            made.make_node("Gather", ["shape", "sides"], ["lengths"]),
            made.make_node("ReduceProd", ["lengths"], ["product"], keepdims=0),
            made.make_node("Unsqueeze", ["product", "first"], ["count"]),
        ]
        values["first"] = np.array([0])
    else:
        values["edges"] = np.array([1])
        nodes += [
            made.make_node("ReduceSum", ["boxes", "edges"], ["sums"]),
            made.make_node("Add", ["sums", "whole"], ["vectors"]),
        ]
    tensors = [onnx.numpy_helper.from_array(value, key) for key, value in values.items()]
    graph = made.make_graph(nodes, name, inputs, outputs, tensors)
    return made.make_model(graph, opset_imports=[made.make_opsetid("", 18)], ir_version=10)


def contents(name: str, format: str) -> list[bytes]:
    """The files of a graph."""
    if format == "onnx":
        graph: bytes = onnx_graph(name).SerializeToString()
        return [graph]
    if format == "openvino":
        openvino = pytest.importorskip("openvino")
        model = shared_core(os.getpid()).read_model(model=contents(name, "onnx")[0])
        with TemporaryDirectory() as folder:
            files = [Path(folder, f"graph{suffix}") for suffix in SUFFIXES[format]]
            openvino.serialize(model, *files)
            return [file.read_bytes() for file in files]
    return [_program(name)]


def _program(name: str) -> bytes:
    import torch

    class Photos(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("projection", torch.from_numpy(PROJECTION))

        def forward(self, photos: torch.Tensor) -> dict[str, torch.Tensor]:
            whole = photos.float().mean(dim=(1, 2)) @ self.projection
            return {"whole": whole, "count": photos.new_full((1,), photos[0, :, :, 0].numel(), dtype=torch.int64)}

    class Boxes(Photos):
        def forward(self, photo: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return photo.float().mean(dim=(0, 1)) @ self.projection + boxes.sum(dim=1, keepdim=True)

    any_length = torch.export.Dim.DYNAMIC
    photo = torch.zeros(1, 7, 9, 3, dtype=torch.uint8)
    if name == PHOTOS:
        program = torch.export.export(Photos(), (photo,), dynamic_shapes=({1: any_length, 2: any_length},))
    else:
        shapes = ({0: any_length, 1: any_length}, {0: any_length})
        program = torch.export.export(Boxes(), (photo[0], torch.zeros(2, 4)), dynamic_shapes=shapes)
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()


def write_exported(
    folder: Path, format: str, files: Mapping[str, bytes] | None = None
) -> tuple[Exported, dict[str, Any]]:
    """An exported model of the graphs, and its card; some of its files perhaps replaced, checksums and all."""
    graphs, written = {}, {}
    for name, (inputs, outputs) in GRAPHS.items():
        names = tuple(f"{name}{suffix}" for suffix in SUFFIXES[format])
        graphs[name] = Graph(names, inputs, outputs)
        written |= dict(zip(names, contents(name, format), strict=True))
    exported = Exported(format, "fp32", graphs, 1, None, 0, (), None, True, True, (), 18 if format == "onnx" else None)

    def write(partial: Path) -> None:
        for file, content in {**written, **(files or {})}.items():
            (partial / file).write_bytes(content)

    write_folder(
        folder, {"fingerprint": "0" * 64, "settings": {}, EXPORT: exported.as_card()}, write, force=folder.exists()
    )
    return exported, read_card(folder)
