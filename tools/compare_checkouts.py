"""Run the benchmark of two checkouts side by side: how much faster or slower the one is than the other.

.. code-block:: console

    git worktree add ../before COMMIT
    python tools/compare_checkouts.py ../before --only search --threads 1 -o comparison.json

Each checkout runs its own ``tools/benchmarks`` in a process of its own, and of the two processes only one works at any
time: they take turns at every single measurement, so that whatever else the machine does hits both. A line is the time
of the other checkout over that of this one, a median over rounds with the smallest and the largest beside it; above 1
this one is faster. What both run alike, such as FAISS, shows how far measurements scatter.
"""

from __future__ import annotations

from objemb.threads import wait_without_spinning

wait_without_spinning()

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
#: Seconds of each side in each round, by the name of the side and of the first ratio that it is part of.
Times = dict[str, list[float]]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the cases, print the table, write and return the report."""
    options = _options(argv)
    if options.work:
        _work(options.only[0], options)
        return {}
    from rich.console import Console
    from rich.table import Table

    from objemb.cli.programs.timing import ratio
    from objemb.disk import write_whole

    report: dict[str, Any] = {"seed": options.seed, "threads": options.threads, "cases": {}}
    table = Table("time before over time now", "value", "lowest", "highest", "milliseconds now")
    for case in options.only:
        before, now = _both(case, options)
        ratios = [ratio(name, before[name], now[name]) for name in now if name in before]
        for found in ratios:
            numbers = [f"{n:.3g}" for n in (found.value, found.low, found.high) if n is not None]
            table.add_row(found.name, *numbers, f"{1000 * found.facts['seconds_below']:.3g}")
        report["cases"][case] = [asdict(found) for found in ratios]
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    if options.output:
        write_whole(options.output, json.dumps(report, indent=1) + "\n")
    return report


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, metavar="CHECKOUT", help="the other one, such as a worktree of a commit")
    parser.add_argument("--only", type=lambda text: text.split(","), default=["search"], metavar="NAME,...")
    parser.add_argument("--small", action="store_true", help="tiny inputs, whose ratios mean nothing")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch and FAISS")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write a JSON report")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    for name in options.only:
        for checkout in () if options.work else (options.before, ROOT):
            if not (checkout / "tools" / "benchmarks" / f"{name}.py").is_file():
                parser.error(f"expected a benchmark {name!r} in {checkout}, found none")
    return options


def _both(case: str, options: argparse.Namespace) -> tuple[Times, Times]:
    """The times of the other checkout and of this one. Each process works until its next measurement is done, then
    the other one does."""
    workers = [_started(checkout.resolve(), case, options) for checkout in (options.before, ROOT)]
    results: dict[int, Times] = {}
    try:
        while len(results) < len(workers):
            for number, worker in enumerate(workers):
                if number not in results and (times := _next(worker)) is not None:
                    results[number] = times
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    return results[0], results[1]


def _started(checkout: Path, case: str, options: argparse.Namespace) -> subprocess.Popen[str]:
    plain = ["--only", case, "--seed", str(options.seed), *(["--small"] if options.small else [])]
    command = [sys.executable, __file__, str(checkout), "--work", *plain]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": str(options.threads)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=checkout, env=environment, stdin=pipe, stdout=pipe, text=True)


def _next(worker: subprocess.Popen[str]) -> Times | None:
    """Let a process work for a turn. Returns its times when it is through."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write("\n")
    worker.stdin.flush()
    line = worker.stdout.readline()
    if not line:
        raise RuntimeError(f"{worker.args!r}: ended with {worker.wait()} in the middle of its measurements")
    times: Times | None = json.loads(line)
    return times


def _work(case: str, options: argparse.Namespace) -> None:
    """What a process does: its checkout's benchmark, which stops before every measurement."""
    turns = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever is printed is no answer
    sys.path[:1] = [os.environ["PYTHONPATH"]]  # in the place of the folder of this file
    sys.stdin.readline()
    module = importlib.import_module(f"tools.benchmarks.{case}")
    times: Times = {}
    waiting: list[Times] = []  # of measurements whose ratio is not known yet

    def alternate(sides: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 1) -> Times:
        found: Times = {name: [] for name in sides}
        for number in range(warm_up + rounds):
            for name, run in sides.items():
                _give_turn(turns)
                start = time.perf_counter()
                run()
                if number >= warm_up:
                    found[name].append(time.perf_counter() - start)
        waiting.append(found)
        return found

    module.alternate = alternate  # type: ignore[attr-defined]
    for ratio in module.run(module.SMALL if options.small else module.FULL, options.seed):
        for found in waiting:
            times.update({f"{name}, in: {ratio.name}": seconds for name, seconds in found.items()})
        waiting.clear()
    print(json.dumps(times), file=turns, flush=True)


def _give_turn(turns: IO[str]) -> None:
    print("null", file=turns, flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main()
