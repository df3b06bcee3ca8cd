"""Kill a training in Detectron2 at random moments, and compare what it leaves with a training that was left alone.

    python tools/torture_detectron2.py --kills 50 -o OUT -- --config-file FILE --teacher MODEL --train FILE.json \\
        SOLVER.CHECKPOINT_PERIOD 2 SOLVER.MAX_ITER 200

What follows ``--`` is given to ``tools/train_detectron2.py``. Each process of the training in ``OUT/killed`` is killed
by SIGKILL within the time of a checkpoint after it has written one, half of them while they write, and another goes
on with ``--resume``, until as many were killed as asked for; the last one is left alone. The weights at the end have to
be those of ``OUT/whole``, bit for bit. Processes are forked, so that libraries are imported once.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from objemb.cli.programs.train_detectron2 import parse, run
from objemb.detectors._detectron2_exchange import read_checkpoint

#: Most seconds without a new checkpoint.
PATIENCE = 600.0
#: Seconds between two looks at the folder.
GLANCE = 0.002


def train(arguments: list[str]) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    run(parse(arguments))


def started(arguments: list[str]) -> BaseProcess:
    """A process of a training."""
    process = multiprocessing.get_context("fork").Process(target=train, args=(arguments,))
    process.start()
    return process


def killed(process: BaseProcess, folder: Path, rng: random.Random, longest: float) -> bool:
    """Kill a process after its next checkpoint, or while it writes the one after; false if it ended before."""
    before, since = set(folder.glob("model_[0-9]*.pth")), time.monotonic()
    while set(folder.glob("model_[0-9]*.pth")) <= before:
        if not process.is_alive():
            return False
        if time.monotonic() - since > PATIENCE:
            raise TimeoutError(f"{folder}: expected a checkpoint within {PATIENCE:.0f} s, found none")
        time.sleep(GLANCE)
    time.sleep(rng.uniform(0, longest))
    if rng.random() < 0.5:
        written = set(folder.iterdir())
        while process.is_alive() and set(folder.iterdir()) <= written:
            time.sleep(GLANCE)
    alive = process.is_alive()
    process.kill()
    process.join()
    return alive and process.exitcode == -9


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights that a training left."""
    state: dict[str, torch.Tensor] = read_checkpoint(str(folder / "model_final.pth"))["model"]  # type: ignore[assignment]
    return state


def main(argv: list[str] | None = None) -> dict[str, object]:
    """Run both trainings; prints and returns what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
    parser.add_argument("training", nargs="+", help="options of tools/train_detectron2.py")
    args = parser.parse_args(argv)
    whole, broken = args.output / "whole", args.output / "killed"
    began = time.monotonic()
    process = started([*args.training, "OUTPUT_DIR", str(whole)])
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"{whole}: expected a training that ends, found exit code {process.exitcode}")
    checkpoints = len(list(whole.glob("model_[0-9]*.pth")))
    longest = (time.monotonic() - began) / max(1, checkpoints)
    rng, count = random.Random(args.seed), 0
    resumed = [*args.training, "--resume", "OUTPUT_DIR", str(broken)]
    broken.mkdir(parents=True, exist_ok=True)
    while count < args.kills and killed(started(resumed), broken, rng, longest):
        count += 1
    process = started(resumed)
    process.join()
    expected, found = weights(whole), weights(broken)
    equal = expected.keys() == found.keys() and all(torch.equal(v, found[k]) for k, v in expected.items())
    report: dict[str, object] = {"kills": count, "checkpoints": checkpoints, "equal": equal}
    print(json.dumps(report))
    return report


if __name__ == "__main__":
    main()
