"""Exported models made by hand, whose rows are found by NumPy: folders that need neither PyTorch nor a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from objemb.card import write_folder
from objemb.runtimes.exported import BOXES, EXPORT, PART, PHOTOS, Exported, Graph, TensorSpec
from objemb.structures import Photo
from objemb.types import Float32Array

DIM, K, CLASSES, FINGERPRINT = 4, 3, ("cup", "pot"), "f" * 64
RANDOM = np.random.default_rng(0)
OF_COLOUR = RANDOM.standard_normal((3, DIM)).astype(np.float32) / 100
OF_BOX = RANDOM.standard_normal((4, DIM)).astype(np.float32)
#: What is "found" in each photo, as fractions of its size; the third is padding.
SHARES = np.array([[0.1, 0.2, 0.5, 0.6], [0.5, 0.25, 1, 0.75], [0, 0, 0, 0]], np.float32)
SCORES = np.array([0.9, 0.6, 0], np.float32)
LABELS = np.array([1, 0, 0])
SETTINGS: dict[str, Any] = {"describer": {"name": "one_pass"}, "aggregator": {"name": "keep"}, "rerank": []}


def vectors_of(photo: Photo, boxes: Float32Array) -> Float32Array:
    """The vectors of boxes in pixels of the original: in fractions of the photo, and its mean colour."""
    height, width = photo.size
    shares = boxes / np.array([width, height, width, height], np.float32)
    rows = shares @ OF_BOX + photo.pixels.astype(np.float32).mean(axis=(1, 2)) @ OF_COLOUR
    unit: Float32Array = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def rows_of(photo: Photo) -> tuple[Float32Array, Float32Array]:
    """The boxes that are indexed, and their vectors."""
    height, width = photo.size
    shares = np.concatenate([[[0, 0, 1, 1]], SHARES[:2]]).astype(np.float32)
    boxes: Float32Array = shares * np.array([width, height, width, height], np.float32)
    return boxes, vectors_of(photo, boxes)


def vector_of_part(photo: Photo, part: Photo) -> Float32Array:
    """The vector ``(1, D)`` of a part: that of a box at the origin of a photo of the size and colour of the part, in
    fractions of the whole photo."""
    height, width = photo.pixels.shape[1:]
    shares = np.array([0, 0, part.pixels.shape[2] / width, part.pixels.shape[1] / height], np.float32)
    row = shares @ OF_BOX + part.pixels.astype(np.float32).mean(axis=(1, 2)) @ OF_COLOUR
    unit: Float32Array = (row / np.linalg.norm(row))[None]
    return unit


def write_model(
    folder: Path,
    *,
    per_region: bool = True,
    detector: bool = True,
    crops: bool = False,
    parts: bool = False,
    batch: int = 1,
    settings: dict[str, Any] | None = None,
    fingerprint: str = FINGERPRINT,
    **exported: Any,
) -> Path:
    """A folder of ONNX graphs.

    Args:
        folder: A new one.
        per_region: As in the card.
        detector: Whether boxes are found.
        crops: Whether another network describes them: the graph of photos has no vectors.
        parts: Whether there is a graph that describes parts at the scale of their photo.
        batch: Photos at once.
        settings: Of the model.
        fingerprint: Of the model.
        exported: Other fields of the card.
    """
    onnx = pytest.importorskip("onnx")
    outputs: dict[str, TensorSpec] = {}
    if detector:
        outputs["boxes"] = TensorSpec("boxes", "float32", (batch, K, 4))
        outputs["labels"] = TensorSpec("labels", "int64", (batch, K))
        outputs["scores"] = TensorSpec("scores", "float32", (batch, K))
        outputs["count"] = TensorSpec("count", "int64", (batch,))
        if not crops and exported.get("in_context", per_region):
            outputs["vectors"] = TensorSpec("vectors", "float32", (batch, K, DIM))
    if not crops:
        outputs["whole"] = TensorSpec("whole", "float32", (batch, DIM))
    graphs = {
        PHOTOS: Graph(
            ("photos.onnx",), (TensorSpec("photos", "uint8", (batch, None, None, 3)),), tuple(outputs.values())
        ),
        BOXES: Graph(
            ("boxes.onnx",),
            (TensorSpec("photo", "uint8", (None, None, 3)), TensorSpec("boxes", "float32", (None, 4))),
            (TensorSpec("vectors", "float32", (None, DIM)),),
        ),
    }
    if parts:
        graphs[PART] = Graph(
            ("part.onnx",),
            (
                TensorSpec("part", "uint8", (None, None, 3)),
                TensorSpec("rows", "uint8", (None,)),
                TensorSpec("columns", "uint8", (None,)),
            ),
            (TensorSpec("whole", "float32", (1, DIM)),),
        )
    facts: dict[str, Any] = {
        **{"format": "onnx", "precision": "fp32", "graphs": graphs, "batch": batch, "size": None},
        **{"max_detections": K, "classes": CLASSES, "decode_side": None, "per_region": per_region},
        **{"in_context": per_region, "opset": 18},
        **exported,
    }
    card = {
        "fingerprint": fingerprint,
        "dim": DIM,
        "settings": settings or SETTINGS,
        "provenance": {"command": ["objemb", "export"], "created": "2026-11-29T00:00:00+00:00"},
        EXPORT: Exported(**facts).as_card(),
    }
    contents = {
        "photos.onnx": _graph(onnx, graphs[PHOTOS], batch),
        "boxes.onnx": _graph(onnx, graphs[BOXES], None),
        **({"part.onnx": _graph_of_parts(onnx, graphs[PART])} if parts else {}),
    }

    def write(partial: Path) -> None:
        for name, content in contents.items():
            (partial / name).write_bytes(content)

    write_folder(folder, card, write, force=True)
    return folder


def _graph(onnx: Any, graph: Graph, batch: int | None) -> bytes:
    """The graph of photos, or that of boxes where there is no batch."""
    node, types = onnx.helper.make_node, onnx.TensorProto
    photo, axes = ("photo", [0, 1]) if batch is None else ("photos", [1, 2])
    sides = np.array([1, 0, 1, 0]) if batch is None else np.array([2, 1, 2, 1])
    values: dict[str, Any] = {
        **{"axes": np.array(axes), "sides": sides, "of_box": OF_BOX, "of_colour": OF_COLOUR, "last": np.array([-1])},
        **{"one": np.array([1]), "shares": SHARES, "all": np.array([[0, 0, 1, 1]], np.float32)},
    }
    wanted = {spec.name for spec in graph.outputs}
    nodes = [
        node("Cast", [photo], ["floats"], to=types.FLOAT),
        node("ReduceMean", ["floats", "axes"], ["colour"], keepdims=0),
        node("MatMul", ["colour", "of_colour"], ["by_colour"]),
        node("Shape", [photo], ["shape"]),
        node("Gather", ["shape", "sides"], ["whole_lengths"]),
        node("Cast", ["whole_lengths"], ["lengths"], to=types.FLOAT),
    ]

    def unit(rows: str, name: str) -> None:
        nodes.append(node("ReduceL2", [rows, "last"], [f"{name}_length"], keepdims=1))
        nodes.append(node("Div", [rows, f"{name}_length"], [name]))

    if batch is None:
        nodes.append(node("Div", ["boxes", "lengths"], ["own_shares"]))
        nodes.append(node("MatMul", ["own_shares", "of_box"], ["by_box"]))
        nodes.append(node("Add", ["by_box", "by_colour"], ["rows"]))
        unit("rows", "vectors")
    else:
        values["many"] = np.array([batch, K, 4])
        constants = {"labels": LABELS, "scores": SCORES, "count": np.array(2)}
        for name in wanted & constants.keys():
            values[f"{name}_values"] = np.repeat(constants[name][None], batch, axis=0)
            nodes.append(node("Identity", [f"{name}_values"], [name]))
        if "boxes" in wanted:
            nodes.append(node("Mul", ["shares", "lengths"], ["own_boxes"]))
            nodes.append(node("Expand", ["own_boxes", "many"], ["boxes"]))
        if "vectors" in wanted:
            values["kept"] = np.array([[1], [1], [0]], np.float32)
            nodes.append(node("MatMul", ["shares", "of_box"], ["by_box"]))
            nodes.append(node("Unsqueeze", ["by_colour", "one"], ["of_each"]))
            nodes.append(node("Add", ["by_box", "of_each"], ["rows"]))
            unit("rows", "unit")
            nodes.append(node("Mul", ["unit", "kept"], ["vectors"]))
        if "whole" in wanted:
            nodes.append(node("MatMul", ["all", "of_box"], ["by_all"]))
            nodes.append(node("Add", ["by_all", "by_colour"], ["whole_row"]))
            unit("whole_row", "whole")
    return _model(onnx, graph, nodes, values)


def _graph_of_parts(onnx: Any, graph: Graph) -> bytes:
    node = onnx.helper.make_node
    values: dict[str, Any] = {
        **{"axes": np.array([0, 1]), "of_box": OF_BOX, "of_colour": OF_COLOUR, "last": np.array([-1])},
        **{"sides": np.array([1, 0]), "corner": np.zeros(2, np.float32), "one_row": np.array([1, DIM])},
    }
    nodes = [
        node("Cast", ["part"], ["floats"], to=onnx.TensorProto.FLOAT),
        node("ReduceMean", ["floats", "axes"], ["colour"], keepdims=0),
        node("MatMul", ["colour", "of_colour"], ["by_colour"]),
        node("Shape", ["part"], ["shape"]),
        node("Gather", ["shape", "sides"], ["own_sides"]),
        node("Shape", ["rows"], ["height"]),
        node("Shape", ["columns"], ["width"]),
        node("Concat", ["width", "height"], ["whole_sides"], axis=0),
        *(node("Cast", [f"{of}_sides"], [f"{of}_lengths"], to=onnx.TensorProto.FLOAT) for of in ("own", "whole")),
        node("Div", ["own_lengths", "whole_lengths"], ["end"]),
        node("Concat", ["corner", "end"], ["shares"], axis=0),
        node("MatMul", ["shares", "of_box"], ["by_box"]),
        node("Add", ["by_box", "by_colour"], ["row"]),
        node("ReduceL2", ["row", "last"], ["length"], keepdims=1),
        node("Div", ["row", "length"], ["unit"]),
        node("Reshape", ["unit", "one_row"], ["whole"]),
    ]
    return _model(onnx, graph, nodes, values)


def _model(onnx: Any, graph: Graph, nodes: list[Any], values: dict[str, Any]) -> bytes:
    types = onnx.TensorProto
    dtypes = {"uint8": types.UINT8, "float32": types.FLOAT, "int64": types.INT64}
    inputs, outputs = (
        [onnx.helper.make_tensor_value_info(t.name, dtypes[t.dtype], t.shape) for t in specs]
        for specs in (graph.inputs, graph.outputs)
    )
    tensors = [onnx.numpy_helper.from_array(value, key) for key, value in values.items()]
    made = onnx.helper.make_graph(nodes, "exported", inputs, outputs, tensors)
    content: bytes = onnx.helper.make_model(
        made, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10
    ).SerializeToString()
    return content
