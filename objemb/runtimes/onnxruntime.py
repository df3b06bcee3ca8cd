"""ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING

from objemb.registry import plugin
from objemb.runtimes.base import AT_ONCE, Runtime, Session, expect_tensors
from objemb.runtimes.exported import Graph
from objemb.types import AnyArray

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, NodeArg

#: Types of tensors as ONNX Runtime calls them, and as NumPy does.
TYPES: Mapping[str, str] = MappingProxyType(
    {
        "tensor(bool)": "bool",
        "tensor(float)": "float32",
        "tensor(float16)": "float16",
        "tensor(double)": "float64",
        "tensor(int32)": "int32",
        "tensor(int64)": "int64",
        "tensor(uint8)": "uint8",
    }
)
#: Warnings of graphs that users can do nothing about are below this level: errors alone.
ERRORS = 3


@plugin
class OnnxRuntime(Runtime):
    """ONNX graphs on the processor, in the precision of their weights.

    Its threads sleep while they wait for each other, see :func:`objemb.threads.wait_without_spinning`.
    """

    formats = ("onnx",)
    package = "onnxruntime"
    precisions = ("fp32",)

    def _open(self, name: str, contents: Sequence[bytes], graph: Graph) -> Session:
        """See :meth:`Runtime._open`. A graph whose weights lie in other files is refused: they have no checksum."""
        onnxruntime = onnxruntime_library()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = ERRORS
        options.inter_op_num_threads = 1
        options.intra_op_num_threads = self.threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(contents[0], options, providers=["CPUExecutionProvider"])
        expect_tensors(name, _types(session.get_inputs()), graph.inputs, "inputs")
        expect_tensors(name, _types(session.get_outputs()), graph.outputs, "outputs")
        return _OnnxSession(name, graph, min(AT_ONCE, self.threads), session)


class _OnnxSession(Session):
    def __init__(self, name: str, graph: Graph, at_once: int, session: InferenceSession) -> None:
        super().__init__(name, graph, at_once)
        self._session = session
        self._outputs = [spec.name for spec in graph.outputs]

    def _run(self, inputs: Sequence[AnyArray]) -> list[AnyArray]:
        named = {spec.name: array for spec, array in zip(self.graph.inputs, inputs, strict=True)}
        try:
            outputs: list[AnyArray] = self._session.run(self._outputs, named)
        except Exception as error:  # its own types derive from Exception alone
            raise RuntimeError(f"{self.name}: {' '.join(str(error).split())}") from error
        return outputs


def _types(arguments: Sequence[NodeArg]) -> dict[str, str]:
    return {argument.name: TYPES.get(argument.type, argument.type) for argument in arguments}


def onnxruntime_library() -> ModuleType:
    """ONNX Runtime, which from 1.32 on would report its use over the network, unless it is told before it is imported.

    Raises:
        ImportError: It is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ImportError("runtime onnxruntime: needs pip install 'objemb[onnxruntime]'") from error
    library: ModuleType = onnxruntime
    return library
