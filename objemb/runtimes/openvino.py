"""OpenVINO."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from queue import SimpleQueue
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from objemb.registry import plugin
from objemb.runtimes.base import AT_ONCE, Runtime, Session, expect_tensors
from objemb.runtimes.exported import BOXES, Graph
from objemb.types import AnyArray

if TYPE_CHECKING:
    from openvino import CompiledModel, Core, InferRequest

#: Precisions as OpenVINO calls them.
HINTS: Mapping[str, str] = MappingProxyType({"fp32": "f32", "bf16": "bf16", "fp16": "f16"})
#: What OpenVINO calls what a processor has to be capable of to compute in them.
CAPABILITIES: Mapping[str, str] = MappingProxyType({"fp32": "FP32", "bf16": "BF16", "fp16": "FP16"})


@plugin
class OpenVino(Runtime):
    """Graphs of OpenVINO, or of ONNX, on the processor.

    Left to itself, OpenVINO computes in bfloat16 where the processor has instructions for it, such as AMX. A precision
    is a hint: on processors without it, OpenVINO takes bfloat16 for half precision, or float32.
    """

    formats = ("openvino", "onnx")
    package = "openvino"
    precisions = tuple(HINTS)

    @classmethod
    def precisions_here(cls) -> tuple[str, ...]:
        """See :meth:`Runtime.precisions_here`."""
        capable = shared_core(os.getpid()).get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return tuple(precision for precision, name in CAPABILITIES.items() if name in capable)

    def _expect_precision(self, graph: Graph) -> None:
        """See :meth:`Runtime._expect_precision`. OpenVINO computes coordinates of boxes in the same precision as the
        networks, so that they would be pixels off, and has no way to except them."""
        if self.precision != "fp32" and BOXES in {spec.name for spec in graph.outputs}:
            raise ValueError(
                "precision of openvino: expected 'fp32' for a model with a detector, whose boxes would be pixels off "
                f"otherwise, found {self.precision!r}"
            )

    def _open(self, name: str, contents: Sequence[bytes], graph: Graph) -> Session:
        """See :meth:`Runtime._open`."""
        openvino, core = _library(), shared_core(os.getpid())
        streams = min(AT_ONCE, self.threads)
        settings: dict[str, object] = {
            "INFERENCE_PRECISION_HINT": HINTS[self.precision],
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": self.threads,
        }
        if len(contents) == 2:
            weights = openvino.Tensor(np.frombuffer(contents[1], np.uint8).copy())
            model = core.read_model(model=contents[0], weights=weights)
        else:
            model = core.read_model(model=contents[0])
        expect_tensors(name, _types(model.inputs), graph.inputs, "inputs")
        expect_tensors(name, _types(model.outputs), graph.outputs, "outputs")
        compiled = core.compile_model(model, "CPU", settings)
        taken = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        precision = next((ours for ours, theirs in HINTS.items() if theirs == taken), taken)
        return _OpenVinoSession(name, graph, streams, precision, compiled)


class _OpenVinoSession(Session):
    def __init__(self, name: str, graph: Graph, at_once: int, precision: str, model: CompiledModel) -> None:
        super().__init__(name, graph, at_once, precision)
        self._idle: SimpleQueue[InferRequest] = SimpleQueue()
        for _ in range(at_once):
            self._idle.put(model.create_infer_request())
        self._outputs = [model.output(spec.name) for spec in graph.outputs]

    def _run(self, inputs: Sequence[AnyArray]) -> list[AnyArray]:
        named = {spec.name: array for spec, array in zip(self.graph.inputs, inputs, strict=True)}
        request = self._idle.get()
        try:
            outputs = request.infer(named)
            return [np.array(outputs[port]) for port in self._outputs]  # the next photo overwrites the outputs
        finally:
            self._idle.put(request)


def _types(ports: Sequence[Any]) -> dict[str, str]:
    return {min(port.get_names()): np.dtype(port.get_element_type().to_dtype()).name for port in ports}


@functools.cache
def shared_core(process: int) -> Core:
    """The core of a process, for all models, which lives as long as the process.

    A core gives the thread that makes it a stack for signal handlers and frees this stack at its own end, although the
    thread still has it: the next signal, such as SIGTERM or that of a child that ends, would end the process (OpenVINO
    2026.4).

    It does not follow ``ONEDNN_MAX_CPU_ISA``, which limits the instructions that PyTorch uses: OpenVINO chooses
    primitives by what the processor has, and its oneDNN, if limited, does not have them, so that models would be
    refused or crash. Its oneDNN reads the variable when the plug-in is loaded.

    Args:
        process: Number of the process; a child cannot use the threads of the core of its parent.
    """
    del process
    limit = os.environ.pop("ONEDNN_MAX_CPU_ISA", None)
    try:
        core: Core = _library().Core()
        core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")  # loads the plug-in
    finally:
        if limit is not None:
            os.environ["ONEDNN_MAX_CPU_ISA"] = limit
    return core


def _library() -> ModuleType:
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise ImportError("runtime openvino: needs pip install 'objemb[openvino]'") from error
    library: ModuleType = openvino
    return library
