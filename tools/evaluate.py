"""Measure methods on a JSON file of images and queries, and print one table.

.. code-block:: console

    python tools/evaluate.py mac rmac rmac,aggregator.name=keep backbone.weights=w.pth --set set.json -o out.json

A METHOD is a config (a file, or a name such as ``rmac``) or a model folder. A key=value on its own holds for all;
behind a comma it holds for that method alone.
"""

from __future__ import annotations

from objemb.threads import wait_without_spinning

wait_without_spinning()

import argparse
import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from objemb.cli.boxes import stored_boxes
from objemb.cli.errors import INTERNAL, exit_code
from objemb.config import load_config
from objemb.evaluation.evaluate import evaluate
from objemb.evaluation.leakage import fitted_on_evaluation
from objemb.evaluation.protocol import EvaluationSet, read_evaluation_set
from objemb.evaluation.report import markdown_table
from objemb.evaluation.task import LEVELS, Task, make_task, pick_queries
from objemb.models import Model, build_model, fit_whitening, load_model
from objemb.models.build import SEED, versions
from objemb.models.query import CROPS

OVERRIDE = re.compile(r"[\w.]+=")
MAX_SHOWN = 5


@dataclass(frozen=True)
class Method:
    """A row of the table; ``settings`` is None for a model folder."""

    name: str
    path: str
    settings: dict[str, Any] | None

    @staticmethod
    def parse(text: str, shared: Sequence[str]) -> Method:
        path, *own = re.split(r",(?=[\w.]+=)", text)
        name = ", ".join((Path(path).name.removesuffix(".yaml"), *own))
        if not Path(path).is_dir():
            return Method(name, path, load_config(path, (*shared, *own)))
        if own:
            raise ValueError(f"{path}: expected a config for {', '.join(own)}, found a model folder")
        return Method(name, path, None)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Parse, measure, write; returns what is written."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parse(argv)
    data = read_evaluation_set(args.set)
    task = make_task(data, args.level, all_objects_as_queries=args.all_objects_as_queries)
    task = pick_queries(task, args.queries)
    shared = tuple(a for a in args.methods if OVERRIDE.match(a))
    methods = [Method.parse(a, shared) for a in args.methods if not OVERRIDE.match(a)]
    if not methods:
        raise ValueError("METHOD: expected at least one config or model folder, found none")
    if shared and all(m.settings is None for m in methods):
        raise ValueError(f"METHOD: expected a config for {', '.join(shared)}, found model folders only")
    results: list[dict[str, Any]] = []
    report = {
        "set": describe_set(data, task, args.queries),
        "results": results,
        "environment": environment(argv, args.device),
    }
    for method in methods:
        results.append(measure(method, data, task, args))
        write(report, markdown_table(results), args)  # after each, so that an interruption loses little
    print(markdown_table(results), end="")
    return report


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/evaluate.py", description=str(__doc__).partition("\n")[0])
    parser.add_argument("methods", nargs="+", metavar="METHOD|KEY=VALUE", help="configs, model folders, overrides")
    parser.add_argument("--set", required=True, type=Path, metavar="JSON", help="images, objects and queries")
    parser.add_argument("--level", choices=LEVELS, default="image", help="what is searched (default: image)")
    parser.add_argument("--queries", action="append", default=[], metavar="KEY=VALUE", help="only these queries")
    parser.add_argument("--all-objects-as-queries", action="store_true", help="search for every object of the set")
    parser.add_argument("--boxes", type=Path, metavar="COCO", help="boxes of the database photos, at image level")
    parser.add_argument("--crop", choices=CROPS, default="context", help="how a query box is seen (default: context)")
    parser.add_argument("--whiten-on", nargs="+", type=Path, metavar="PHOTOS", help="fit a PCA whitening on these")
    parser.add_argument("--whiten-boxes", type=Path, metavar="COCO", help="boxes of the --whiten-on photos")
    parser.add_argument("--whiten-dim", type=int, help="dimensions to keep (default: all)")
    parser.add_argument("--whiten-power", type=float, default=0.5, help="0.5 whitens, 0 only rotates (default: 0.5)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=2, help="decoding threads (default: 2)")
    parser.add_argument("-o", "--output", type=Path, metavar="JSON", help="write everything that was measured")
    parser.add_argument("--markdown", type=Path, metavar="MD", help="write the table")
    return parser.parse_intermixed_args(argv)


def measure(method: Method, data: EvaluationSet, task: Task, args: argparse.Namespace) -> dict[str, Any]:
    """Everything about one method."""
    note(f"{method.name}: {len(task.database)} {task.level}s, {len(task.queries)} queries")
    model = open_model(method, args)
    warnings = leakage(model, data)
    found = evaluate(model, data, task, boxes=stored_boxes(args.boxes, model), crop=args.crop, workers=args.workers)
    for line in (*warnings, *found.problems[:MAX_SHOWN]):
        note(f"{method.name}: {line}")
    if len(found.problems) > MAX_SHOWN:
        note(f"{method.name}: and {len(found.problems) - MAX_SHOWN} more problems")
    return {
        "method": method.name,
        **found.to_json(),
        "warnings": warnings,
        "dim": model.dim,
        "fingerprint": model.fingerprint,
        "settings": model.settings,
        "provenance": model.provenance,
    }


def open_model(method: Method, args: argparse.Namespace) -> Model:
    model = (
        load_model(method.path, args.device)
        if method.settings is None
        else build_model(method.settings, device=args.device)
    )
    if not args.whiten_on:
        return model
    return fit_whitening(
        model,
        args.whiten_on,
        boxes=stored_boxes(args.whiten_boxes, model),
        dim=args.whiten_dim,
        power=args.whiten_power,
        workers=args.workers,
        on_skip=lambda skipped: note(f"whitening: {skipped.path}: {skipped.reason}"),
    )


def write(report: dict[str, Any], table: str, args: argparse.Namespace) -> None:
    text = json.dumps(report, indent=2, allow_nan=False) + "\n"
    for path, content in ((args.output, text), (args.markdown, table)):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")


def leakage(model: Model, data: EvaluationSet) -> list[str]:
    whitening = getattr(model.describer, "whitening", None)
    seen = fitted_on_evaluation(whitening.fitted_on, data) if whitening else []
    return [f"the whitening was fitted on photos of the evaluation set ({', '.join(seen)})"] if seen else []


def describe_set(data: EvaluationSet, task: Task, conditions: Sequence[str]) -> dict[str, Any]:
    return {
        "name": data.name,
        "file": str(data.path),
        "level": task.level,
        "conditions": list(conditions),
        "images": len(data.images),
        "objects": len(data.objects),
        "database": len(task.database),
        "queries": len(task.queries),
        "missing_photos": data.missing_photos(),
    }


def environment(argv: Sequence[str], device: str) -> dict[str, Any]:
    return {
        "command": shlex.join(["tools/evaluate.py", *argv]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()},
        "device": device,
        "threads": torch.get_num_threads(),
        "seed": SEED,
    }


def note(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        if exit_code(error) == INTERNAL:
            raise
        note(f"tools/evaluate.py: {error}")
        sys.exit(exit_code(error))
