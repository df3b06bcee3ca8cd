"""Run the benchmarks of two checkouts side by side, to see how much faster or slower one is than the other.

.. code-block:: console

    git worktree add ../before COMMIT
    python tools/compare_checkouts.py ../before --only search --threads 1 -o comparison.json

Each checkout runs its own ``tools/benchmarks`` in a separate process. Only one of the two processes works at any time:
they take turns at every measurement, so that other load on the machine affects both alike. Each line is the time of the
other checkout divided by the time of this one, as a median over rounds with the smallest and the largest ratio beside
it; above 1, this checkout is faster. Code that is the same in both, such as FAISS, shows how noisy the measurements
are.
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
#: Seconds of each measurement in each round, by its name and that of the first ratio that it belongs to.
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
        for one in ratios:
            numbers = [f"{n:.3g}" for n in (one.value, one.low, one.high) if n is not None]
            table.add_row(one.name, *numbers, f"{1000 * one.facts['seconds_below']:.3g}")
        report["cases"][case] = [asdict(one) for one in ratios]
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    if options.output:
        write_whole(options.output, json.dumps(report, indent=1) + "\n")
    return report


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "before", type=Path, metavar="CHECKOUT", help="the other checkout, such as a worktree of an earlier commit"
    )
    parser.add_argument("--only", type=lambda text: text.split(","), default=["search"], metavar="NAME,...")
    parser.add_argument(
        "--small", action="store_true", help="use tiny inputs, to try the program; the ratios mean nothing"
    )
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
    """The times of the other checkout and of this one. The processes take turns, one measurement at a time."""
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
    """Let a process do its next measurement. Returns all its times once it has finished, otherwise None."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write("\n")
    worker.stdin.flush()
    line = worker.stdout.readline()
    if not line:
        raise RuntimeError(f"{worker.args!r}: exited with code {worker.wait()} before its measurements were complete")
    times: Times | None = json.loads(line)
    return times


def _work(case: str, options: argparse.Namespace) -> None:
    """Run the benchmark of one checkout, waiting for a turn before every measurement."""
    turns = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the benchmark prints must not be taken for an answer
    sys.path[:1] = [os.environ["PYTHONPATH"]]  # instead of the folder of this file
    sys.stdin.readline()
    module = importlib.import_module(f"tools.benchmarks.{case}")
    times: Times = {}
    waiting: list[Times] = []  # measurements that do not belong to a ratio yet

    def alternate(sides: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 1) -> Times:
        seconds: Times = {name: [] for name in sides}
        for number in range(warm_up + rounds):
            for name, run in sides.items():
                _give_turn(turns)
                start = time.perf_counter()
                run()
                if number >= warm_up:
                    seconds[name].append(time.perf_counter() - start)
        waiting.append(seconds)
        return seconds

    module.alternate = alternate  # type: ignore[attr-defined]
    for ratio in module.run(module.SMALL if options.small else module.FULL, options.seed):
        for measured in waiting:
            times.update({f"{name}, in: {ratio.name}": seconds for name, seconds in measured.items()})
        waiting.clear()
    print(json.dumps(times), file=turns, flush=True)


def _give_turn(turns: IO[str]) -> None:
    print("null", file=turns, flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main()
