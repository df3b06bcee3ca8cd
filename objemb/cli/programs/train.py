"""Train a model as a config says. If a run is interrupted, the same command resumes it.

.. code-block:: console

    objemb train classify_scenes -o runs/teacher data.count=1200 run.steps=200
    torchrun --nproc-per-node 2 -m objemb train classify_scenes -o runs/teacher

CONFIG is a YAML file, or the name of one in ``configs/train``. Keys without ``run.`` belong to the task. The trained
model is saved in ``runs/teacher/model``, a folder for ``objemb index --model``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from objemb.cli.output import Said, note
from objemb.cli.progress import Progress
from objemb.config import load_training_config
from objemb.models.origins import origins, untrained
from objemb.training.runner import fit
from objemb.training.settings import RunSettings
from objemb.training.task import build_task

PROGRAM = "objemb train"


def main(argv: Sequence[str] | None = None) -> dict[str, object]:
    """Run the program; prints and returns the figures of the run."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parse(argv)
    config = load_training_config(args.config, args.overrides)
    settings = RunSettings.of(config["run"])
    settings.expect_devices()  # before photos are searched for and weights downloaded
    config = {**config, "run": settings.to_json()}
    with Progress() as display:
        display.meter("preparing the task", "parts", None)
        task = build_task(config["task"], seed=settings.seed)
    random = untrained(config["task"], {"weights": origins(config["task"], seed=settings.seed)})
    quiet = args.quiet or Said.quiet
    if random and not quiet:
        note(f"training starts from random weights: {', '.join(random)}")
    command = [*PROGRAM.split(), *argv]
    metrics = fit(task, settings, args.output, config=config, force=args.force, command=command, quiet=quiet)
    if metrics:
        print(json.dumps({"model": str(args.output / "model"), **metrics}))
    return metrics


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", metavar="CONFIG", help="a YAML file or the name of a training config")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of the task, or run.key=value")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument(
        "--force", action="store_true", help="start from the beginning, discarding any run in the folder"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return parser.parse_intermixed_args(argv)
