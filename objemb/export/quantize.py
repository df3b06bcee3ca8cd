"""Layers of ONNX graphs in 8-bit whole numbers, by ONNX Runtime's post-training static quantisation."""

from __future__ import annotations

import ast
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from objemb.runtimes.onnxruntime import onnxruntime_library
from objemb.types import AnyArray

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

#: Operators that follow a layer in whole numbers as long as all that they read does.
FOLLOWING = ("Clip", "Relu", "Add")
#: Linear layers, in whole numbers where a rectifier follows. Those that end a head, whose results are scores, moves of
#: boxes or vectors, are small and stay in float32.
LINEAR = ("Gemm", "MatMul")
#: First convolutions of each pass, over the photo and over its windows, that stay in float32 where a model has a
#: detector. On MobileNetV2 they take no longer so, and 88 instead of 68 % of the boxes overlap with PyTorch's by 0.9;
#: windows in whole numbers from the first layer on lose two points of mAP.
EXACT = 6
#: Part of the scope of the nodes that compute the maps of windows.
WINDOWS = "canvas_maps"
#: Key of a node's property under which PyTorch's exporter writes the modules that the node is from.
SCOPES = "pkg.torch.onnx.name_scopes"
#: ONNX Runtime's level of messages: errors alone.
ERRORS = 3


def quantized(model: ModelProto, samples: Sequence[Mapping[str, AnyArray]], exact: int = EXACT) -> ModelProto:
    """A graph whose convolutions and hidden linear layers, and what only joins or clips them, compute in 8-bit whole
    numbers.

    Activations have a scale and a zero point per tensor, from the least and the largest value of the samples; weights
    have a scale per channel and 7 bits: processors with AVX2 that lack VNNI add two products of 8 bits in 16 bits,
    which hold ``2 * 255 * 64`` but not ``2 * 255 * 127``. Preprocessing, the first convolutions, decoding,
    suppression, RoI align, the last linear layers of heads, whitening and normalisation stay in float32.

    Args:
        model: An ONNX model in float32, as PyTorch's exporter makes it.
        samples: Inputs by name, for each run of a calibration; at least one.
        exact: Number of convolutions that stay in float32, from the first one on, of the photo and of windows each.

    Raises:
        ImportError: ONNX Runtime is not installed.
    """
    try:
        import onnx

        onnxruntime_library()
        from onnxruntime import quantization
    except ImportError as error:
        raise ImportError("--precision int8 needs ONNX Runtime: pip install 'objemb[export]'") from error

    class Samples(quantization.CalibrationDataReader):  # type: ignore[misc]  # a library without types
        def __init__(self) -> None:
            self._left: Iterator[Mapping[str, AnyArray]] = iter(samples)

        def get_next(self) -> Mapping[str, AnyArray] | None:
            return next(self._left, None)

    in_windows = {node.name for node in model.graph.node if any(WINDOWS in path for path in scopes(node))}
    root = logging.getLogger()
    before = root.level
    with tempfile.TemporaryDirectory() as scratch:
        folded, written = Path(scratch) / "folded.onnx", Path(scratch) / "quantized.onnx"
        _fold(model, folded)
        chosen = _chosen(onnx.load(folded), in_windows, exact)
        try:
            root.setLevel(logging.ERROR)  # it advises what was done above
            with np.errstate(invalid="ignore"):  # nodes that stay in float32 are observed too, and may be infinite
                quantization.quantize_static(
                    folded,
                    written,
                    Samples(),
                    quant_format=quantization.QuantFormat.QDQ,
                    nodes_to_quantize=chosen,
                    op_types_to_quantize=["Conv", *LINEAR, *FOLLOWING],
                    per_channel=True,
                    reduce_range=True,
                    activation_type=quantization.QuantType.QUInt8,
                    weight_type=quantization.QuantType.QInt8,
                )
        finally:
            root.setLevel(before)
        return _in_order(onnx.load(written))


def _in_order(model: ModelProto) -> ModelProto:
    """A model whose nodes stand behind what they read, also in the bodies of loops, which ONNX Runtime's quantisation
    leaves out of account: OpenVINO refuses such graphs."""
    import onnx_ir

    opened = onnx_ir.from_proto(model)
    opened.graph.sort()
    ordered: ModelProto = onnx_ir.to_proto(opened)
    return ordered


def _fold(model: ModelProto, file: Path) -> None:
    """Write a model whose batch norms are folded into its convolutions.

    ONNX Runtime does so where no other convolution has the same weights.
    """
    onnxruntime = onnxruntime_library()
    weights = {weight.name: weight for weight in model.graph.initializer}
    used: set[str] = set()
    for node in model.graph.node:
        if node.op_type not in ("Conv", "BatchNormalization"):
            continue
        for place, name in enumerate(node.input):
            if name in used:
                copy = model.graph.initializer.add()
                copy.CopyFrom(weights[name])
                copy.name = node.input[place] = f"{name}_{node.name}_{place}"
            elif name in weights:
                used.add(name)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(file)
    options.log_severity_level = ERRORS
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _chosen(model: ModelProto, in_windows: set[str], exact: int) -> list[str]:
    """Names of the convolutions but the first, of hidden linear layers, and of what reads nothing but these."""
    constant = {weight.name for weight in model.graph.initializer}
    made = {output: node.name for node in model.graph.node for output in node.output}
    readers: dict[str, list[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    met = {True: 0, False: 0}
    chosen = set()
    for node in model.graph.node:  # each after those that it reads
        if node.op_type == "Conv":
            met[node.name in in_windows] += 1
            fits = met[node.name in in_windows] > exact
        elif node.op_type in LINEAR:
            fits = node.input[1] in constant and readers.get(node.output[0]) == ["Relu"]
        elif node.op_type in FOLLOWING:
            fits = all(made.get(name) in chosen for name in node.input[: 2 if node.op_type == "Add" else 1])
        else:
            continue
        if fits:
            chosen.add(node.name)
    return sorted(chosen)


def scopes(node: NodeProto) -> list[str]:
    """Paths of the modules that a node is from, the outermost first, and its own name; empty if they are unknown."""
    written = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), "[]")
    return [str(path) for path in ast.literal_eval(written)]
