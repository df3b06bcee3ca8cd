"""Demonstrate objemb from scratch: generate scenes, train teacher, detector and student, index, search, measure.

.. code-block:: console

    objemb demo                     # writes demo/report.html, in about ten minutes on two cores
    objemb demo --seed 1            # other products, other weights
    objemb demo --photos holiday/   # also indexes and searches your own photos: demo/photos.html

Every step is a command that is printed before it runs. Finished steps are skipped, so an interrupted demo can be
resumed with the same command.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from objemb.cli.output import note, print_table
from objemb.cli.programs.demos.steps import Step, StepFailedError, read_facts, read_stamp, run_steps
from objemb.cli.progress import Progress
from objemb.datasets.writing import IN_PHOTO, PICTURE
from objemb.disk import write_whole

PROGRAM = "objemb demo"
#: Steps that are not commands: the figures and the page.
OWN_STEPS = 1
#: Enough for stable figures, and few enough to be described in a dozen ways within two minutes.
TEST_SCENES = "360"
#: Columns of the table in the terminal.
TABLE = ("method", "photo mAP", "P@1", "share", "picture mAP", "P@1", "share")
ABOUT_TABLE = (
    "found, in percent, by a box in a photo and by a product picture; share: of the teacher's mAP on the same boxes"
)
#: Keys of a training config that name photos, with the split that they use.
PARTS = {"data": "train", "validation": "val"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run all steps; returns the exit code."""
    options = parse(argv)
    folder = options.output / f"seed{options.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    steps = plan(folder, options.seed, small=options.small)
    try:
        run_steps(steps, folder, len(steps) + OWN_STEPS)
    except StepFailedError as error:
        note(f"{PROGRAM}: {error}")
        return 1
    page = finish(folder, steps, options)
    note(f"open {page}")
    if options.photos:
        from objemb.cli.programs.demos.photos import search_photos

        note(f"open {search_photos(options.photos, folder / 'student' / 'model', options.output)}")
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=str(__doc__).partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes and of all training (default: 0)")
    parser.add_argument("-o", "--output", type=Path, default=Path("demo"), help="folder (demo)")
    parser.add_argument("--photos", type=Path, help="afterwards, index and search the photos in this folder")
    parser.add_argument("--small", action="store_true", help="train a few steps on a few scenes, to try the program")
    return parser.parse_args(argv)


def plan(folder: Path, seed: int, *, small: bool = False) -> list[Step]:
    """The commands, in order."""
    scenes = folder / "scenes"
    counts: tuple[str, ...] = ("--train-scenes", "40", "--val-scenes", "6", "--test-scenes", "10")
    counts = counts if small else ("--test-scenes", TEST_SCENES)
    few = ("run.steps=2", "run.warmup=0", "run.validate_every=0") if small else ()
    # a whitening needs more vectors than it keeps dimensions
    dims = {"teacher": ("whiten.dim=32",), "student": ("describer.head.dim=32",)} if small else {}
    teacher, detector, student = (str(folder / task / "model") for task in ("teacher", "detector", "student"))

    def train(config: str, run: str, *overrides: str) -> tuple[str, ...]:
        photos = [
            f"{part}.{key}" for part, split in PARTS.items() for key in _photos(scenes / f"instances_{split}.json")
        ]
        return (
            "objemb",
            "train",
            config,
            *photos,
            *overrides,
            *few,
            *dims.get(run, ()),
            f"run.seed={seed}",
            "-o",
            str(folder / run),
        )

    def step(name: str, title: str, command: tuple[str, ...], *needs: str) -> Step:
        return Step(name, title, command, folder / name, needs)

    make_scenes = ("objemb", "prepare-data", "scenes", "-o", str(scenes), "--seed", str(seed), *counts)
    trunk = (f"describer.regions.detector.backbone.weights={teacher}", f"describer.backbone.weights={teacher}")
    known = (f"teacher={teacher}", f"describer.detector.weights={detector}")
    index = ("objemb", "index", str(scenes / "instances_test.json"), "-o", str(folder / "index"), "--model", student)
    return [
        step("scenes", "draw scenes of products", (*make_scenes, "--workers", "2")),
        step("teacher", "train the teacher to classify products", train("classify_scenes", "teacher"), "scenes"),
        step("detector", "train the detector", train("detect_scenes", "detector", *trunk), "teacher"),
        step("student", "train the detector's embedding head", train("distill_scenes", "student", *known), "detector"),
        step("index", "index the test scenes with the student", index, "student"),
    ]


def _photos(file: Path) -> tuple[str, str]:
    """Overrides for a source of training data."""
    return ("name=coco", f"file={file}")


def finish(folder: Path, steps: Sequence[Step], options: argparse.Namespace) -> Path:
    """Measure, and write the page."""
    from objemb.cli.programs.demos.answers import answers
    from objemb.cli.programs.demos.checks import check
    from objemb.cli.programs.demos.page import report_page

    figures = figures_of(folder, steps, options)
    stamps = [read_stamp(folder, step.name) for step in steps]
    seconds = sum(stamp["seconds"] for stamp in stamps) + figures["seconds"]
    figures |= {"steps": stamps, "checks": [] if options.small else check(figures, seconds)}
    answered = answers(folder / "scenes", folder / "student" / "model", folder / "index")
    page: Path = options.output / "report.html"
    write_whole(page, report_page(figures, answered))
    if options.small:
        note("with --small the figures mean nothing, so the expected results are not checked")
        return page
    note(ABOUT_TABLE)
    print_table(TABLE, [_line(row) for row in figures["rows"]])
    for one in figures["checks"]:
        note(f"{'holds' if one['holds'] else 'DOES NOT HOLD'}: {one['text']}: {one['measured']}")
    return page


def _line(row: Mapping[str, Any]) -> list[str]:
    cells = [row["title"]]
    for kind in (IN_PHOTO, PICTURE):
        figures = row["by_kind"][kind]
        share = "" if figures["share"] is None else f"{figures['share']:.2f}"
        cells += [f"{100 * figures['mAP']:.1f}", f"{100 * figures['P@1']:.1f}", share]
    return cells


def figures_of(folder: Path, steps: Sequence[Step], options: argparse.Namespace) -> dict[str, Any]:
    """The figures, measured now or in an earlier run on the same models."""
    from objemb.cli.programs.demos.figures import SIZE, measure

    file = folder / "figures.json"
    mark = read_stamp(folder, steps[-1].name)["mark"]
    figures = read_facts(file)
    if figures.get("mark") == mark:
        note(f"[{len(steps) + OWN_STEPS}/{len(steps) + OWN_STEPS}] measure and compare: done before")
        return figures
    note(f"[{len(steps) + OWN_STEPS}/{len(steps) + OWN_STEPS}] measure and compare")
    start = time.perf_counter()
    teacher, detector, student = (folder / task / "model" for task in ("teacher", "detector", "student"))
    with Progress() as display:
        figures = measure(folder / "scenes", teacher, detector, student, SIZE, options.seed, display)
    figures |= {"mark": mark, "seconds": time.perf_counter() - start}
    write_whole(file, json.dumps(figures, indent=1) + "\n")
    return figures


def run(argv: Sequence[str]) -> None:
    """Run the program and exit with its exit code."""
    sys.exit(main(argv))
