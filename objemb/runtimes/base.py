"""The contract of a runtime: what opens the graphs of an exported model and runs them, on NumPy in and out."""

from __future__ import annotations

import importlib.util
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, final

import numpy as np

from objemb import checks, registry
from objemb.card import CARD, ModelCard
from objemb.checks import ArtefactMismatchError
from objemb.registry import Plugin
from objemb.runtimes.exported import Exported, Graph, TensorSpec
from objemb.threads import usable_threads
from objemb.types import AnyArray

log = logging.getLogger(__name__)

#: Most runs of a graph that are worth computing at the same time: each takes the memory of all its layers.
AT_ONCE = 4


class Session(ABC):
    """A graph that is ready to run. Calling it from several threads is safe.

    Args:
        name: What messages call the graph.
        graph: Its inputs and outputs, as the card has them.
        at_once: Number of runs that may be computed at the same time, from as many threads, in less time than one
            after the other.
        precision: How its networks of float32 really compute, one of :attr:`Runtime.precisions`.

    Attributes:
        name, graph, at_once, precision: As given.
    """

    def __init__(self, name: str, graph: Graph, at_once: int = 1, precision: str = "fp32") -> None:
        self.name = name
        self.graph = graph
        self.at_once = at_once
        self.precision = precision

    @final
    def __call__(self, arrays: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """Run the graph.

        Args:
            arrays: An array for each input, of the type and shape that the card says.

        Returns:
            An array for each output, by name.

        Raises:
            ValueError: Other inputs than those of the graph, or of other types or shapes.
            ArtefactMismatchError: An output is not what the card says.
            RuntimeError: The runtime cannot run it.
        """
        if arrays.keys() != {spec.name for spec in self.graph.inputs}:
            expected = checks.listed(spec.name for spec in self.graph.inputs)
            raise ValueError(f"{self.name}: expected the inputs {expected}, found {checks.listed(arrays)}")
        inputs = [np.ascontiguousarray(arrays[spec.name]) for spec in self.graph.inputs]
        for spec, array in zip(self.graph.inputs, inputs, strict=True):
            if not _fits(spec, array):
                raise ValueError(f"{self.name}: expected {_described(spec)}, found {array.dtype} {array.shape}")
        outputs = self._run(inputs)
        for spec, array in zip(self.graph.outputs, outputs, strict=True):
            if not _fits(spec, array):
                raise ArtefactMismatchError(
                    f"{self.name}: expected {_described(spec)} as the card says, found {array.dtype} {array.shape}"
                )
        return {spec.name: array for spec, array in zip(self.graph.outputs, outputs, strict=True)}

    @abstractmethod
    def _run(self, inputs: Sequence[AnyArray]) -> list[AnyArray]:
        """The outputs in the order of the card, from checked inputs in the same order."""


class Runtime(Plugin, ABC):
    """Opens graphs and runs them on the processor.

    A plug-in does so in :meth:`_open`. Checksums and the names of inputs and outputs are checked here.

    Args:
        threads: Threads that a graph computes with; None for those of :func:`objemb.threads.usable_threads`.
        precision: How networks of float32 compute, one of ``precisions``. It is always set: some runtimes take half
            precision by themselves on processors that have it.

    Attributes:
        formats: Formats of graphs that it reads, of :data:`objemb.runtimes.exported.FORMATS`.
        precisions: What it can be told, ``fp32`` being the first.
        package: What is imported to run graphs.
        threads: Number of threads.
        precision: As given.

    Raises:
        ImportError: The runtime is not installed; the message says what to install.
        ValueError: A precision that it does not have.
    """

    kind = "runtimes"
    formats: ClassVar[tuple[str, ...]]
    precisions: ClassVar[tuple[str, ...]]
    package: ClassVar[str]

    def __init__(self, *, threads: int | None = None, precision: str = "fp32") -> None:
        self.threads = usable_threads() if threads is None else checks.whole("threads", threads)
        self.precision = checks.one_of(f"precision of {self.registry_name}", precision, self.precisions)

    @classmethod
    def is_installed(cls) -> bool:
        """Whether the package is there; it is not imported."""
        try:
            return importlib.util.find_spec(cls.package) is not None
        except (ModuleNotFoundError, ValueError):  # an import hook that hides it, or a broken one
            return False

    @classmethod
    def precisions_here(cls) -> tuple[str, ...]:
        """Those of ``precisions`` in which this processor computes; of the others, a session takes another one."""
        return cls.precisions

    @final
    def open(self, name: str, exported: Exported, card: ModelCard, folder: str | Path) -> Session:
        """Open a graph of an exported model.

        Args:
            name: ``photos`` or ``boxes``.
            exported: What the card says of the export.
            card: The card.
            folder: Where it lies.

        Raises:
            ArtefactMismatchError: A file is missing, damaged or of another model, or no graph that the runtime reads,
                or has other inputs or outputs than the card says; expected and found are named.
            ValueError: The runtime does not read this format.
        """
        if exported.format not in self.formats:
            raise ValueError(
                f"runtime: expected one that reads {exported.format!r}, found {self.registry_name!r}, which reads "
                f"{checks.listed(self.formats)}"
            )
        contents = exported.contents(name, card, folder)
        graph = exported.graphs[name]
        file = Path(folder) / graph.files[0]
        self._expect_precision(graph)
        try:
            session = self._open(str(file), contents, graph)
        except (ImportError, ArtefactMismatchError):
            raise
        except Exception as error:  # each runtime has its own for what it cannot read
            reason = " ".join(str(error).split())[:200]
            raise ArtefactMismatchError(
                f"{file}: expected a graph that {self.registry_name} reads, found {type(error).__name__}: {reason}"
            ) from error
        if session.precision != self.precision:
            log.warning(
                "%s: expected this processor to compute in %s, found %s, in which %s computes instead",
                *(file, self.precision, session.precision, self.registry_name),
            )
        return session

    def _expect_precision(self, graph: Graph) -> None:
        """Raise ``ValueError`` if the precision does not suffice for a graph; by default, it does for all."""
        del graph

    @abstractmethod
    def _open(self, name: str, contents: Sequence[bytes], graph: Graph) -> Session:
        """A session of a graph.

        Args:
            name: For messages.
            contents: The files of the graph, whose checksums are right.
            graph: What the card says of it; :func:`expect_tensors` compares that with what the runtime finds.

        Raises:
            ArtefactMismatchError: The graph is another than the card says.
            Exception: Anything for contents that are no graph.
        """


def readers(format: str) -> list[type[Runtime]]:
    """The runtimes that read a format of :data:`objemb.runtimes.exported.FORMATS`, installed or not, by name."""
    runtimes = [registry.load(Runtime, name) for name in registry.names(Runtime.kind)]
    return [runtime for runtime in runtimes if format in runtime.formats]


def expect_tensors(name: str, found: Mapping[str, str], specs: Sequence[TensorSpec], what: str) -> None:
    """Compare the inputs or outputs of a graph with those of the card.

    Args:
        name: Of the graph, for the message.
        found: Type as NumPy calls it by name.
        specs: What the card says.
        what: ``inputs`` or ``outputs``.

    Raises:
        ArtefactMismatchError: They differ; both are named.
    """
    expected = {spec.name: spec.dtype for spec in specs}
    if dict(found) != expected:
        raise ArtefactMismatchError(
            f"{name}: expected the {what} {_listed(expected)} as {CARD} says, found {_listed(found)}"
        )


def _listed(types: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({dtype})" for name, dtype in types.items()) or "none"


def _fits(spec: TensorSpec, array: AnyArray) -> bool:
    if array.dtype != spec.dtype or array.ndim != len(spec.shape):
        return False
    return all(side in (None, found) for side, found in zip(spec.shape, array.shape, strict=True))


def _described(spec: TensorSpec) -> str:
    sides = ", ".join("any" if side is None else str(side) for side in spec.shape)
    return f"{spec.name} {spec.dtype} ({sides})"
