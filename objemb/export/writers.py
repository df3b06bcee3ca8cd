"""Traced programs as files: ONNX, OpenVINO, and PyTorch's own archive."""

from __future__ import annotations

import logging
import math
import operator
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from objemb.export.graphs import Traced
from objemb.export.quantize import EXACT, quantized, scopes
from objemb.types import AnyArray

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

#: Of ONNX: the last one that ONNX Runtime and OpenVINO both read in full.
OPSET = 20
#: Least number of elements of a tensor that is stored in half precision.
HALVED = 1024
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "pt2": ".pt2"}


def write_graph(
    traced: Traced,
    folder: Path,
    name: str,
    format: str,
    precision: str,
    about: Mapping[str, str],
    samples: Sequence[Mapping[str, AnyArray]] = (),
    exact: int = EXACT,
) -> list[str]:
    """Write a graph.

    Args:
        traced: The graph.
        folder: Where to.
        name: Of the files, without suffix.
        format: One of :data:`objemb.runtimes.exported.FORMATS`.
        precision: ``fp32``, the only one of ``pt2``; ``fp16`` for weights of half the size, which are computed with in
            float32 where a processor has nothing better; or ``int8``, see :func:`objemb.export.quantize.quantized`.
        about: Facts about the model, by name, for whoever has the file alone; ONNX only.
        samples: For ``int8``: inputs of the graph by name, from photos to calibrate with.
        exact: For ``int8``: number of convolutions that stay in float32, see :func:`objemb.export.quantize.quantized`.

    Returns:
        Names of the files, the one to open first.

    Raises:
        ImportError: The library of the format is not installed.
    """
    file = folder / f"{name}{SUFFIXES[format]}"
    if format == "pt2":
        _spell_out_sums(traced.program.graph_module)
        torch.export.save(traced.program, file)
        return [file.name]
    if format == "onnx":
        _write_onnx(traced, file, precision, about, samples, exact)
        return [file.name]
    onnx = file.with_suffix(".onnx")
    _write_onnx(traced, onnx, "int8" if precision == "int8" else "fp32", about, samples, exact)
    convert_to_openvino(onnx, file, precision)
    onnx.unlink()
    return [file.name, file.with_suffix(".bin").name]


def _spell_out_sums(module: torch.nn.Module) -> None:
    """Replace sums of several lengths, which :func:`torch.export.save` does not know, by sums of two."""
    for part in module.modules():
        if not isinstance(part, torch.fx.GraphModule):
            continue
        for node in list(part.graph.nodes):
            if node.target is not torch.sym_sum:
                continue
            total, *others = node.args[0]
            with part.graph.inserting_before(node):
                for other in others:
                    total = part.graph.call_function(operator.add, (total, other))
                    total.meta.update(node.meta)
            node.replace_all_uses_with(total)
            part.graph.erase_node(node)
        part.recompile()


def convert_to_openvino(onnx: Path, file: Path, precision: str) -> None:
    """Write the OpenVINO model, ``file`` and a ``.bin`` beside it, of an ONNX file.

    Raises:
        ImportError: OpenVINO is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise ImportError("--format openvino needs OpenVINO: pip install 'objemb[openvino]'") from error
    openvino.save_model(openvino.convert_model(onnx), file, compress_to_fp16=precision == "fp16")


def _write_onnx(
    traced: Traced,
    file: Path,
    precision: str,
    about: Mapping[str, str],
    samples: Sequence[Mapping[str, AnyArray]],
    exact: int,
) -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401  torch.onnx needs it
    except ImportError as error:
        raise ImportError("objemb export needs ONNX: pip install 'objemb[export]'") from error

    for library in ("torch.onnx", "onnx_ir"):
        logging.getLogger(library).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torchvision's operators about PyTorch
        program = torch.onnx.export(
            traced.program,
            dynamo=True,
            opset_version=OPSET,
            input_names=[spec.name for spec in traced.inputs],
            output_names=[spec.name for spec in traced.outputs],
            verbose=False,
            optimize=False,
            custom_translation_table={torch.ops.aten._local_scalar_dense.default: _number},
        )
    assert program is not None  # as with dynamo=True
    _simplify(program.model)
    model = program.model_proto
    _stop_early(model, traced.used)
    if precision == "fp16":
        _halve(model)
    elif precision == "int8":
        model = quantized(model, samples, exact)
    _forget_origins(model.graph)
    del model.metadata_props[:]
    for key, value in about.items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, file)


def _number(tensor: Any) -> Any:
    """A tensor of one element as a number. One of int64 without axes is a number; the exporter would give it an axis
    and take its first element, ten times in the loop that resizes windows."""
    from onnxscript import opset18
    from onnxscript.function_libs.torch_lib.ops.core import aten__local_scalar_dense

    is_number = len(tensor.shape) == 0 and tensor.dtype.name == "INT64"
    return opset18.Identity(tensor) if is_number else aten__local_scalar_dense(tensor)


def _simplify(model: Any) -> None:
    """Compute what is constant, leave out what is unused or there twice, and replace known patterns by less.

    The exporter's own optimisation does the same, but looks for patterns first, twice, at every node that is left out
    later: a sixth of the time of an export.

    Args:
        model: An ``onnx_ir.Model``, changed in place.
    """
    from onnx_ir.passes import common
    from onnxscript import optimizer, rewriter

    optimizer.fold_constants(model)
    common.RemoveUnusedNodesPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.LiftSubgraphInitializersToMainGraphPass()(model)
    common.DeduplicateInitializersPass()(model)
    common.CommonSubexpressionEliminationPass()(model)
    rewriter.rewrite(model)
    optimizer.fold_constants(model)
    common.IdentityEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)


def _stop_early(model: ModelProto, used: Mapping[str, int]) -> None:
    """Let each non-maximum suppression stop at the number of boxes that are used of it.

    Args:
        model: As PyTorch's exporter makes it: the number, the third input, is unlimited.
        used: The number by the path of the module, see :class:`objemb.export.graphs.Traced`.
    """
    import onnx

    for node in model.graph.node:
        known = [used[path] for path in scopes(node) if path in used]
        if node.op_type == "NonMaxSuppression" and known:
            limit = onnx.numpy_helper.from_array(np.array(known[-1:], np.int64), f"{node.name}_most")
            model.graph.initializer.append(limit)
            node.input[2] = limit.name


def _forget_origins(graph: GraphProto) -> None:
    """Remove where nodes and values were traced: paths of this machine, and a megabyte of them."""
    for part in (*graph.node, *graph.value_info):
        del part.metadata_props[:]
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _forget_origins(inner)


def _halve(model: Any) -> None:
    """Store large float32 weights as float16, each with a cast back to float32, which a runtime does once."""
    import onnx

    graph = model.graph
    casts = []
    for weight in graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT and math.prod(weight.dims) >= HALVED:
            name = weight.name
            half = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight).astype(np.float16), f"{name}_half")
            weight.CopyFrom(half)
            casts.append(onnx.helper.make_node("Cast", [half.name], [name], to=onnx.TensorProto.FLOAT))
    for cast in reversed(casts):
        graph.node.insert(0, cast)
    named = {cast.output[0] for cast in casts}
    kept = [value for value in graph.value_info if value.name not in named]
    del graph.value_info[:]
    graph.value_info.extend(kept)
