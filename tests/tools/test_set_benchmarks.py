"""The benchmarks that measure a model on an evaluation set."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from objemb.datasets.evaluation_set import SetEntry, read_evaluation_set
from objemb.detectors.stored_boxes import StoredBoxes
from objemb.evaluation.evaluate import evaluate
from objemb.evaluation.retrieval_task import RetrievalTask, make_task
from objemb.models import build_model, load_model, save_model
from objemb.rerank._expansion import unit_rows
from objemb.structures import ImageRows
from objemb.types import Float32Array
from tests.evaluation.colours import write_set
from tests.small_settings import CROPS, STUDENT
from tools.benchmarks import box_sources
from tools.benchmarks.false_alarms import ASKED, table
from tools.benchmarks.views import views_table


def rows_of(entries: tuple[SetEntry, ...], vectors: Float32Array) -> ImageRows:
    """One row for each entry."""
    count = len(entries)
    files = [f"{number} {entry.file}" for number, entry in enumerate(entries)]
    return ImageRows(tuple(files), vectors, np.arange(count), np.tile(np.float32([0, 0, 1, 1]), (count, 1)))


def task_of(database: list[tuple[str, str]], queries: list[tuple[str, str]]) -> RetrievalTask:
    """Photos and queries by file and object."""
    photos, asked = (tuple(SetEntry(file, (name,)) for file, name in some) for some in (database, queries))
    return RetrievalTask("image", photos, asked)


def test_table_of_views() -> None:
    """Each view finds its own photo of the object first, and a photo of another object before the second; both views
    together find both, their mean finds the other object. The photo of a view does not count."""
    task = task_of([("a", "cup"), ("b", "cup"), ("c", "pan"), ("v", "pan")], [("v", "cup"), ("w", "cup"), ("x", "can")])
    photos = np.float32([[1, 0, 0], [0, 1, 0], [0.6, 0.6, 0.28**0.5], [1, 0, 0]])
    views = np.float32([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    lines = views_table(task, rows_of(task.database, photos), rows_of(task.queries, views), ["best", "mean"], (1, 2), 0)
    # average precision of ranks 1 and 3, and of ranks 2 and 3, by the trapezoidal rule
    third, last = 100 * (1 + (1 / 2 + 2 / 3) / 2) / 2, 100 * ((0 + 1 / 2) / 2 + (1 / 2 + 2 / 3) / 2) / 2
    assert lines == [
        "1 objects and groups of views",
        "| combine | 1 | 2 |",
        f"| best | {third:.1f} | 100.0 |",
        f"| mean | {third:.1f} | {last:.1f} |",
    ]


def test_too_few_views() -> None:
    task = task_of([("a", "cup")], [("v", "cup")])
    rows = rows_of(task.database, np.float32([[1, 0]]))
    with pytest.raises(SystemExit, match="expected an object with at least 4 queries"):
        views_table(task, rows, rows, ["best"], (1, 4), 0)


@pytest.mark.parametrize("column", [False, True])
def test_table_of_false_alarms(column: bool) -> None:
    """Two of thirty objects look the same, so that each is taken for the other where it is absent; the others are
    seldom taken for one, and each is found where it is present."""
    random = np.random.default_rng(0)
    centres = unit_rows(random.standard_normal((30, 64)).astype(np.float32))
    centres[1] = centres[0]
    shown = np.repeat(np.arange(30), 2)
    photos, asked = (
        unit_rows(c + np.float32(0.02) * random.standard_normal(c.shape).astype(np.float32))
        for c in (centres[shown], centres)
    )
    task = task_of(
        [(f"{n}", f"object {o}") for n, o in enumerate(shown)], [(f"q{o}", f"object {o}") for o in range(30)]
    )
    first, _, _, *lines = table(task, rows_of(task.database, photos), rows_of(task.queries, asked), column)
    assert first.startswith("60 photos or boxes, 1.0 rows each, 30 objects, 30 absent and 30 present queries")
    cells = np.array([[float(cell) for cell in line.strip("| ").split(" | ")] for line in lines])
    assert cells[:, 0].tolist() == list(ASKED)
    alarms, misses = cells[:, 1], cells[:, 3]
    assert (np.diff(alarms) <= 0).all()
    assert alarms[0] > 0.3
    assert 0.066 <= alarms[2] <= 0.3
    assert (misses[:4] == 0).all()


def test_files_of_box_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The default has the boxes of the detector, or patches in photos in which it finds none."""
    save_model(build_model({"describer": STUDENT}), tmp_path / "model")
    arguments = [
        "--set",
        str(write_set(tmp_path)),
        "--detector",
        str(tmp_path / "model"),
        "--teacher",
        str(tmp_path / "teacher"),
        "-o",
        str(tmp_path / "boxes"),
    ]
    save_model(build_model({"describer": CROPS}), tmp_path / "teacher")
    monkeypatch.setattr(sys, "argv", ["box_sources", *arguments])
    box_sources.main()
    boxes: dict[str, dict[int, list[list[float]]]] = {}
    for path in sorted((tmp_path / "boxes").iterdir()):
        coco = json.loads(path.read_text())
        boxes[path.stem] = {image["id"]: [] for image in coco["images"]}
        for entry in coco["annotations"]:
            boxes[path.stem][entry["image_id"]].append(entry["bbox"])
    names = ["default", "detector", "detector_and_proposals", "detector_or_proposals", "patches", "proposals"]
    assert sorted({*boxes} - {"every"}) == [*names, "whole"]
    assert [len(found) for found in boxes["patches"].values()] == [4 + 9] * 3
    for image, found in boxes["default"].items():
        assert found == (boxes["detector"][image] or boxes["patches"][image])
        assert found == [] or len(boxes["detector_and_proposals"][image]) >= len(found[: box_sources.FEW])
        different = {tuple(box) for name in names for box in boxes[name][image]}
        assert len(boxes["every"][image]) == len(different)
    printed = capsys.readouterr().out
    assert "| patches | 14.00 | 0 of 3 |" in printed
    data = read_evaluation_set(Path(arguments[1]))
    stored = StoredBoxes(tmp_path / "boxes" / "patches.json")
    alone = evaluate(load_model(tmp_path / "teacher"), data, make_task(data, "image"), boxes=stored)
    assert alone.coverage is not None
    means, recall = alone.scores.means, alone.coverage.recall
    row = next(line for line in printed.splitlines() if line.startswith("| patches |"))
    assert f"| {100 * recall:.1f} | {100 * means['mAP']:.1f} | {100 * means['P@1']:.1f} |" in row
    assert row.endswith("| 2 | 0 |"), "queries, and those whose object has no detection"
