"""A small graph that holds what a detector's does: shared weights, batch norms, bounds, sums and linear layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from objemb.types import Float32Array

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from objemb.export.quantize import LINEAR, SCOPES, quantized  # noqa: E402  it needs neither before it runs


def graph() -> Any:
    """Twice ``clip(norm(conv(x)))`` of the same weights, one of which is of windows, then a convolution of 1 x 1, a sum
    and a product that stays as it is, to which one of two branches adds a number; and two linear layers of the mean of
    the sum."""
    random = np.random.default_rng(0)
    weights = {
        "w": random.normal(size=(8, 3, 3, 3)),
        "scale": random.uniform(0.5, 2, 8),
        "shift": random.normal(size=8),
        "mean": random.normal(size=8),
        "var": random.uniform(0.5, 2, 8),
        "v": random.normal(size=(8, 8, 1, 1)),
        "hidden": random.normal(size=(16, 8)),
        "last": random.normal(size=(16, 5)),
        "six": np.array(6.0),
        "zero": np.array(0.0),
    }
    make = onnx.helper.make_node
    nodes = []
    for name, seen in (("photo", "x"), ("window", "z")):
        nodes += [
            make("Conv", [seen, "w"], [f"{name}_conv"], name=f"{name}_conv", pads=[1, 1, 1, 1]),
            make(
                "BatchNormalization",
                [f"{name}_conv", "scale", "shift", "mean", "var"],
                [f"{name}_norm"],
                name=f"{name}_norm",
            ),
            make("Clip", [f"{name}_norm", "zero", "six"], [f"{name}_clip"], name=f"{name}_clip"),
        ]
    nodes += [
        make("Conv", ["photo_clip", "v"], ["point"], name="point"),
        make("Add", ["point", "photo_clip"], ["sum"], name="sum"),
        make("Mul", ["sum", "window_clip"], ["product"], name="product"),
        make("ReduceMean", ["sum", "axes"], ["mean_sum"], name="mean_sum", keepdims=0),
        make("Gemm", ["mean_sum", "hidden", "hidden_bias"], ["hidden_out"], name="hidden", transB=1),
        make("Relu", ["hidden_out"], ["rectified"], name="rectified"),
        make("MatMul", ["rectified", "last"], ["scores"], name="last"),
        make("ReduceMax", ["x"], ["top"], name="top", keepdims=0),
        make("IsInf", ["top"], ["endless"], name="endless"),
    ]
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 8, "h", "w"])
    branches = [
        onnx.helper.make_graph(
            [make("Add", ["product", number], ["inner"], name=f"with_{number}")], number, [], [inner]
        )
        for number in ("six", "zero")
        for inner in [onnx.helper.make_tensor_value_info("inner", onnx.TensorProto.FLOAT, [1, 8, "h", "w"])]
    ]
    nodes.append(make("If", ["endless"], ["y"], name="branches", then_branch=branches[0], else_branch=branches[1]))
    nodes[3].metadata_props.add(key=SCOPES, value="['', 'program.canvas_maps', 'conv2d']")
    scores = onnx.helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, [1, 5])
    weights["hidden_bias"] = random.normal(size=16)
    return onnx.helper.make_model(
        onnx.helper.make_graph(
            nodes,
            "g",
            [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, "h", "w"]) for name in "xz"],
            [y, scores],
            [
                *(onnx.numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()),
                onnx.numpy_helper.from_array(np.array([2, 3]), "axes"),
            ],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 20)],
        ir_version=10,
    )


def outputs(model: Any, x: Float32Array) -> list[Float32Array]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[Float32Array] = session.run(None, {"x": x, "z": x})
    return found


def noise() -> list[dict[str, Float32Array]]:
    random = np.random.default_rng(1)
    drawn = [random.normal(size=(1, 3, *size)).astype(np.float32) for size in ((9, 12), (20, 7), (16, 16))]
    return [{"x": x, "z": x} for x in drawn]


@pytest.fixture(scope="module")
def made() -> Any:
    return quantized(graph(), noise(), exact=0)


def test_it_gives_nearly_the_same(made: Any) -> None:
    x = np.random.default_rng(2).normal(size=(1, 3, 14, 10)).astype(np.float32)
    for expected, found in zip(outputs(graph(), x), outputs(made, x), strict=True):
        assert 0 < np.abs(found - expected).mean() < 0.03 * np.abs(expected).mean()


def test_weights_have_7_bits_for_processors_that_add_products_of_8_bits_in_16(made: Any) -> None:
    arrays = {weight.name: onnx.numpy_helper.to_array(weight) for weight in made.graph.initializer}
    whole = [array for array in arrays.values() if array.dtype == np.int8 and array.ndim > 1]
    assert len(whole) == 4
    for array in whole:
        assert np.abs(array.astype(int)).max() == 64
        assert 2 * 255 * np.abs(array.astype(int)).max() < 1 << 15
    scales = [array for name, array in arrays.items() if name.endswith("_scale") and array.ndim == 1]
    assert all(array.shape in ((8,), (16,)) for array in scales if array.size > 1), "one for each channel"


def whole_inputs(model: Any) -> dict[str, bool]:
    """Of each layer, whether its weights are whole numbers."""
    made_by = {output: node.op_type for node in model.graph.node for output in node.output}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", *LINEAR)]
    return {node.name: made_by.get(node.input[1]) == "DequantizeLinear" for node in layers}


def test_nodes_follow_what_they_read(made: Any) -> None:
    """What the bodies of loops and branches read from outside too: OpenVINO refuses other graphs."""
    known = {entry.name for entry in (*made.graph.input, *made.graph.initializer)} | {""}
    bodies = 0
    for node in made.graph.node:
        bodies += len(node.attribute) if node.op_type == "If" else 0
        inner = [one for attribute in node.attribute for one in attribute.g.node]
        within = {name for one in inner for name in one.output} | {
            i.name for a in node.attribute for i in a.g.initializer
        }
        assert {name for one in (node, *inner) for name in one.input} <= known | within, node.name
        known |= set(node.output)
    assert bodies == 2


def test_last_layers_stay_in_float(made: Any) -> None:
    assert whole_inputs(made) == {
        "photo_conv": True,
        "window_conv": True,
        "point": True,
        "hidden": True,
        "last": False,
    }
    assert not [node.name for node in made.graph.node if node.op_type == "BatchNormalization"]


@pytest.mark.parametrize(("exact", "point"), [(1, True), (2, False)])
def test_the_first_convolutions_stay_in_float(exact: int, point: bool) -> None:
    """As many of the photo as of windows."""
    assert whole_inputs(quantized(graph(), noise(), exact=exact)) == {
        "photo_conv": False,
        "window_conv": False,
        "point": point,
        "hidden": True,
        "last": False,
    }
