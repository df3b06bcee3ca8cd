"""PyTorch: the reference."""

from __future__ import annotations

import io
import json
import logging
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from objemb.checks import ArtefactMismatchError
from objemb.registry import plugin
from objemb.runtimes.base import Runtime, Session
from objemb.runtimes.exported import Graph
from objemb.types import AnyArray

#: Members of the archive, in its folder: programs as JSON, raw tensors, and what the format says of itself.
MEMBERS = re.compile(
    r"models/model\.json|data/(weights/(weight_\d+|model_weights_config\.json)"
    r"|constants/(tensor_\d+|model_constants_config\.json)|sample_inputs/model\.pt)"
    r"|archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)"
)
#: What a program may call.
OPERATORS = re.compile(
    r"torch\.ops\.(aten|torchvision)\.(?!from_file)\w+(\.\w+)?|torch\.ops\.higher_order\.while_loop"
    r"|_operator\.\w+|math\.\w+|torch\.sym_\w+"
)
#: Words of expressions over the sizes of arrays; SymPy evaluates them, so that a stranger's could be any program.
EXPRESSION = re.compile(
    r"(?:\b(?:Symbol|Integer|Rational|Float|Mul|Add|Pow|Max|Min|Mod|PythonMod|FloorDiv|CeilDiv|CleanDiv|ModularIndexing|Where"
    r"|FloorToInt|CeilToInt|TruncToInt|RoundToInt|IntTrueDiv|FloatTrueDiv|ToFloat|Identity|Piecewise|ExprCondPair|Tuple"
    r"|floor|ceiling|And|Or|Not|Eq|Ne|Lt|Le|Gt|Ge|Equality|Unequality|StrictLessThan|LessThan|StrictGreaterThan"
    r"|GreaterThan|true|false|positive|nonnegative|integer|precision|True|False)\b|'[a-z]+\d+'|'\d+(?:\.\d+)?(?:e-?\d+)?'"
    r"|\d++|[-+(),=\s])*+"
)


@plugin
class Torch(Runtime):
    """Programs of ``torch.export``, computed by PyTorch as it computes the model itself."""

    formats = ("pt2",)
    package = "torch"
    precisions = ("fp32",)

    def _open(self, name: str, contents: Sequence[bytes], graph: Graph) -> Session:
        """See :meth:`Runtime._open`. PyTorch would run pickles and expressions of an archive; those are refused."""
        torch = _library()
        _expect_harmless(torch, name, contents[0])
        logging.getLogger("torch._export.serde").setLevel(logging.ERROR)  # it warns of symbols that nothing uses
        program = torch.export.load(io.BytesIO(contents[0]))
        signature = program.graph_signature
        found = (len(signature.user_inputs), len(signature.user_outputs))
        expected = (len(graph.inputs), len(graph.outputs))
        if found != expected:
            raise ArtefactMismatchError(
                f"{name}: expected {expected[0]} inputs and {expected[1]} outputs as the card says, found {found[0]} "
                f"and {found[1]}"
            )
        return _TorchSession(name, graph, torch, program.module(check_guards=False), self.threads)


class _TorchSession(Session):
    def __init__(self, name: str, graph: Graph, torch: ModuleType, module: Any, threads: int | None) -> None:
        super().__init__(name, graph)
        self._torch, self._module, self._threads = torch, module, threads

    def _run(self, inputs: Sequence[AnyArray]) -> list[AnyArray]:
        with self._torch.inference_mode(), self._at_work():
            # what a program is given it may take for its own, and an array may be read only
            outputs = self._module(*(self._torch.tensor(array) for array in inputs))
        values = (
            [outputs] if isinstance(outputs, self._torch.Tensor) else self._torch.utils._pytree.tree_leaves(outputs)
        )
        return [value.numpy() for value in values]

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """The threads of this session; PyTorch has one number for the whole process."""
        before = self._torch.get_num_threads()
        try:
            self._torch.set_num_threads(self._threads or before)
            yield
        finally:
            self._torch.set_num_threads(before)


def _expect_harmless(torch: ModuleType, name: str, content: bytes) -> None:
    """Raise ``ArtefactMismatchError`` for an archive that could make PyTorch do anything but compute."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.namelist():
            _, _, inside = member.partition("/")
            if not MEMBERS.fullmatch(inside):
                raise ArtefactMismatchError(f"{name}: expected programs and tensors, found {member!r}")
            if inside.endswith(".json"):
                for key, value in _entries(json.loads(archive.read(member))):
                    _expect_plain(name, key, value)
            elif inside.endswith(".pt") and (examples := archive.read(member)):
                torch.load(io.BytesIO(examples), weights_only=True)


def _expect_plain(name: str, key: str, value: object) -> None:
    wrong = {
        "use_pickle": bool(value),
        "target": not OPERATORS.fullmatch(str(value)),
        "expr_str": not EXPRESSION.fullmatch(str(value)),
    }
    if wrong.get(key, False):
        raise ArtefactMismatchError(f"{name}: expected a program of known operators, found {key} {str(value)[:80]!r}")


def _entries(value: object) -> Iterator[tuple[str, object]]:
    """All keys of a document with their values, at any depth."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield from item.items()
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


def _library() -> ModuleType:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise ImportError("runtime torch: needs pip install 'objemb[torch]'") from error
    return torch
