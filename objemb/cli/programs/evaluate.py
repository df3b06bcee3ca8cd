"""Evaluate methods on sets of images and queries: describe, search, re-rank, score, and print a table.

.. code-block:: console

    objemb evaluate mac rmac rmac,aggregator.name=keep backbone.weights=w.pth --set set.json -o out.json
    objemb evaluate gem my_model --dataset roxford5k --root DIR --rerank query_expansion,top=10 --report out/
    objemb evaluate --methods mac,rmac --datasets roxford5k,instre --root DIR --cache cache/ --report out/
    objemb evaluate teacher student --set set.json --reference teacher
    objemb evaluate my_model --set boxes.json --box-sources ground_truth,detector,grid,whole --regions 1,5,20

A METHOD is a config (a file, or a name such as ``rmac``) or a model folder, also an exported one. A separate
key=value argument applies to all methods; after a comma it applies to that method only. With several methods or
sets, an error is shown in its cell of the table and does not stop the others; the exit code is then 3.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from objemb.cli.errors import INTERNAL, SKIPPED, exit_code
from objemb.cli.output import note
from objemb.cli.program import environment
from objemb.cli.programs.evaluations.measure import Measured, measure
from objemb.cli.programs.evaluations.methods import Method, find_reference, open_model, parse_methods
from objemb.cli.programs.evaluations.options import parse
from objemb.cli.programs.evaluations.outputs import draw, embedding, markdown, set_folder, write, write_failures
from objemb.cli.programs.evaluations.sets import FailedSet, OpenSet, open_sets
from objemb.evaluation.matrix import matrix
from objemb.evaluation.projector import Embedding, write_embeddings
from objemb.evaluation.shares import with_shares
from objemb.models import EmbeddingModel
from objemb.models.build import SEED

PROGRAM = "objemb evaluate"


@dataclass(frozen=True)
class MethodVariant:
    """A row of the table: a method with its re-rankers, and the source of its boxes in a box-source ablation."""

    method: Method
    rerank: Sequence[str] = ()
    source: str | None = None

    @property
    def name(self) -> str:
        source = "" if self.source is None else f" [{self.source}]"
        return " + ".join((f"{self.method.name}{source}", *self.rerank))


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the program; returns the report that is written."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parse(argv, str(__doc__).partition("\n")[0])
    methods = parse_methods(args.arguments, args.methods)
    reference = None if args.reference is None else find_reference(args.reference, methods)
    facts = environment(PROGRAM, argv, device=args.device, seed=SEED)
    report = EvaluationRun(methods, open_sets(args), args, facts, reference).run()
    print(markdown(report), end="")
    return report


class EvaluationRun:
    """All methods on all sets.

    Args:
        methods: In the order of the rows.
        sets: In the order of the columns.
        args: The command line.
        environment: Machine, versions and command, which are part of the report.
        reference: The method that the others are compared with, with boxes from the same source; None for no
            comparison.
    """

    def __init__(
        self,
        methods: Sequence[Method],
        sets: Sequence[OpenSet | FailedSet],
        args: argparse.Namespace,
        environment: dict[str, object],
        reference: Method | None = None,
    ) -> None:
        self.methods, self.sets, self.args, self.environment = methods, sets, args, environment
        self.sources: Sequence[str | None] = args.box_sources or [None]
        self.results: list[dict[str, object]] = []
        self.references: dict[str, str] = {}
        if reference is not None:
            rows = [(self._rows(method), self._rows(reference)) for method in methods if method is not reference]
            self.references = {row.name: of.name for pair in rows for row, of in zip(*pair, strict=True)}
        self.embeddings: list[Embedding] = []
        self.about = [s.to_json(args) for s in sets if isinstance(s, OpenSet)]

    @property
    def several_sets(self) -> bool:
        return len(self.sets) > 1

    def run(self) -> dict[str, object]:
        """Measure everything. The report is written after each method, so that little is lost on interruption."""
        for method in self.methods:
            for result in self._measure(method):
                self.results.append(result)
                write(self.report(), self.args)
        self._draw()
        if self.args.projector is not None and self.embeddings:
            note(f"tensorboard --logdir {write_embeddings(self.args.projector, self.embeddings).parent}")
        return self.report()

    def report(self) -> dict[str, object]:
        """The results so far, JSON-ready: one set as ``set``, several as ``sets`` with a ``matrix``."""
        results = with_shares(self.results, self.references)
        if not self.several_sets:
            return {"set": self.about[0], "results": results, "environment": self.environment}
        figures = dict.fromkeys(map(set_name, self.sets), "") | {s["name"]: s["figure"] for s in self.about}
        failed_sets = [{"name": s.name, "error": s.error} for s in self.sets if isinstance(s, FailedSet)]
        return {
            "sets": [*self.about, *failed_sets],
            "matrix": matrix(results, figures),
            "results": results,
            "environment": self.environment,
        }

    def _measure(self, method: Method) -> Iterator[dict[str, object]]:
        """The results of a method on all sets; the model is opened once."""
        cells = [(row, one) for one in self.sets for row in self._rows(method)]
        alone = len(self.methods) * len(cells) == 1
        try:
            model = open_model(method, self.args)
        except Exception as error:
            if alone:
                raise
            yield from (failed(row.name, set_name(one), error) for row, one in cells)
            return
        for row, one in cells:
            if isinstance(one, FailedSet):
                yield {"method": row.name, "set": one.name, "error": one.error}
                continue
            try:
                yield self._cell(row, model, one)
            except Exception as error:
                if alone:
                    raise
                yield failed(row.name, one.data.name, error)

    def _rows(self, method: Method) -> list[MethodVariant]:
        return [MethodVariant(method, self.args.rerank, source) for source in self.sources]

    def _cell(self, row: MethodVariant, model: EmbeddingModel, one: OpenSet) -> dict[str, object]:
        """Measure a method on a set and write the files of this cell."""
        measured = measure(row.name, model, one.data, one.task, row.source, self.args)
        if self.args.report is not None and self.args.failures:
            folder = set_folder(self.args.report, one.data.name, self.several_sets)
            note(str(write_failures(measured, one.data, one.task, self.environment, folder, self.args)))
        self._embed(row, measured, one)
        return measured.result

    def _embed(self, row: MethodVariant, measured: Measured, one: OpenSet) -> None:
        if self.args.projector is None:
            return
        name = f"{one.data.name} {row.name}" if self.several_sets else row.name
        points = embedding(name, measured.described, one.data, one.task, self.args.projector_vectors)
        if points is None:
            note(f"{name}: nothing to write for --projector: it has visual words instead of vectors, or no photos")
        else:
            self.embeddings.append(points)

    def _draw(self) -> None:
        if self.args.report is None:
            return
        for one in self.sets:
            if isinstance(one, OpenSet):
                name = one.data.name
                folder = set_folder(self.args.report, name, self.several_sets)
                draw([r for r in self.results if r["set"] == name], folder, name)


def set_name(one: OpenSet | FailedSet) -> str:
    return one.name if isinstance(one, FailedSet) else one.data.name


def failed(method: str, name: str, error: Exception) -> dict[str, object]:
    """A cell with an error message; unexpected exceptions also print a traceback."""
    if exit_code(error) == INTERNAL:
        traceback.print_exception(error)
    note(f"{method} on {name}: {error}")
    return {"method": method, "set": name, "error": f"{type(error).__name__}: {error}"}


def run(argv: Sequence[str]) -> None:
    """Run the program; the exit code is 3 if some cells failed."""
    if any("error" in result for result in main(argv)["results"]):
        sys.exit(SKIPPED)
