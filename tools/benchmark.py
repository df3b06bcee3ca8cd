"""Check objemb's claims about speed, memory and recall, as ratios within one run on one machine.

.. code-block:: console

    python tools/benchmark.py --only search,rmac -o benchmark.json

Each ratio is a median over rounds in which the compared programs alternate; the smallest and the largest ratio of any
round are shown beside it. ``--small`` runs everything on tiny inputs, to try the program.
"""

from __future__ import annotations

from objemb.threads import wait_without_spinning

wait_without_spinning()

import argparse
import importlib
import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from objemb.disk import write_whole

#: Each is a module of ``tools/benchmarks`` with ``FULL`` and ``SMALL`` sizes and ``run(sizes, seed)``.
CASES = ("search", "approximate", "rerank", "rmac", "indexing", "one_pass", "export", "asmk")
ROOT = Path(__file__).resolve().parents[1]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the cases, print the table, write and return the report."""
    options = _options(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    report: dict[str, Any] = {"machine": machine(), "seed": options.seed, "command": _command(argv), "cases": {}}
    table = Table("ratio", "value", "lowest", "highest", "wanted", "")
    for name in options.only:
        case = _case(name)
        sizes = dict(case.SMALL if options.small else case.FULL)
        if name == "export":
            sizes |= {"models": options.models, "exported": options.exported, "files": options.photos}
        results = []
        for ratio in case.run(sizes, options.seed):
            results.append({**asdict(ratio), "holds": ratio.holds})
            table.add_row(*_row(ratio))
            print(f"{ratio.name}: {ratio.value:.4g}", file=sys.stderr)
        report["cases"][name] = {"sizes": json.loads(json.dumps(sizes, default=str)), "ratios": results}
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    if options.output:
        write_whole(options.output, json.dumps(report, indent=1) + "\n")
    return report


def machine() -> dict[str, Any]:
    """The machine and the versions of libraries, on which the numbers depend."""
    libraries = ("torch", "torchvision", "numpy", "faiss-cpu", "pyarrow", "pillow")
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in libraries}},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", type=_names, default=CASES, metavar="NAME,...", help=f"run some of: {', '.join(CASES)}"
    )
    parser.add_argument(
        "--small", action="store_true", help="use tiny inputs, to try the program; the ratios mean nothing"
    )
    parser.add_argument("--threads", type=int, help="threads of torch and FAISS (default: torch's own default)")
    parser.add_argument("--seed", type=int, default=0)
    for option, metavar, text in (
        ("--models", "DIR", "model folders that the case export measures, in place of random weights"),
        ("--exported", "DIR", "folders that 'objemb export' made of them; the others are exported first"),
        ("--photos", "PHOTOS", "photos on which they are measured"),
    ):
        parser.add_argument(option, type=Path, nargs="+", default=[], metavar=metavar, help=text)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write a JSON report")
    return parser.parse_args(argv)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    unknown = [name for name in names if name not in CASES]
    if unknown:
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(CASES)}, found {', '.join(unknown)}")
    return names


def _case(name: str) -> Any:
    if str(ROOT) not in sys.path:  # `python tools/benchmark.py` puts tools/ on the path, not its parent
        sys.path.insert(0, str(ROOT))
    return importlib.import_module(f"tools.benchmarks.{name}")


def _row(ratio: Any) -> list[str]:
    numbers = ["" if n is None else f"{n:.3g}" for n in (ratio.value, ratio.low, ratio.high)]
    return [ratio.name, *numbers, ratio.wanted, {True: "ok", False: "MISSED", None: ""}[ratio.holds]]


def _command(argv: Sequence[str] | None) -> str:
    return shlex.join(["python", "tools/benchmark.py", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    main()
