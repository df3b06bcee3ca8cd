"""All figures of the demo, as one JSON file."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from objemb.cli.programs.demos.compare import compare, milliseconds
from objemb.cli.programs.demos.rows import ROWS, DemoFiles, open_describers
from objemb.cli.progress import Progress
from objemb.datasets.evaluation_set import EvaluationSet, read_evaluation_set
from objemb.detectors.base import Detector
from objemb.detectors.capabilities import NetworkDetector
from objemb.detectors.stored_boxes import StoredBoxes
from objemb.evaluation.average_precision import coco_average_precision
from objemb.images.sources import ImageRef
from objemb.images.stream import stream_photos
from objemb.models import Model, load_model
from objemb.structures import Photo, Regions

#: Side of a scene and of the networks' input, in pixels.
SIZE = 256
#: Number of photos on which the baselines' whitenings are fitted.
FITTED_PHOTOS = 200
#: Describers that need boxes of the detector, so that its time is part of their cost.
TWO_PASSES = ("detector", "map", "crop")


class GivenBoxes(Detector):
    """Boxes that were detected before, by the id of the photo."""

    def __init__(self, regions: Mapping[str, Regions]) -> None:
        self._regions = regions

    def detect(self, photos: Sequence[Photo]) -> list[Regions]:
        """See :class:`Detector`."""
        return [self._regions[photo.id] for photo in photos]


def measure(
    scenes: Path, teacher: Path, detector: Path, student: Path, size: int, seed: int, display: Progress
) -> dict[str, object]:
    """All figures of a run.

    Args:
        scenes: Folder of the scenes.
        teacher: Model folder of the teacher.
        detector: Model folder with the detector before the distillation.
        student: Model folder of the student.
        size: Side of a scene in pixels.
        seed: Seed of the run.
        display: Shows the progress.
    """
    data = read_evaluation_set(scenes / "retrieval_test.json")
    truth = StoredBoxes(scenes / "instances_test.json")
    files = DemoFiles(teacher, student, _some_photos(scenes), scenes / "instances_train.json", size)
    display.meter("whitening the baselines", "parts", None)
    models = open_describers(files)
    raw = detect_all(models["student"], data, display.meter("detecting", "photos", len(data.images)).step)
    source = models["student"].describer.regions
    assert source is not None
    selected = {name: source.select(detections) for name, detections in raw.items()}
    boxes = {"own": None, "detector": GivenBoxes(selected), "truth": truth}
    rows = compare(models, data, boxes, display.meter("comparing", "methods", len(ROWS)).step)
    display.meter("timing", "parts", None)
    times = milliseconds(models, data, GivenBoxes(selected))
    return {
        "seed": seed,
        "machine": f"{os.cpu_count()} cores ({platform.machine()}), {torch.get_num_threads()} threads, no accelerator",
        "dim": models["student"].dim,
        "rows": [{**row, **_cost(row, times)} for row in rows],
        "times": times,
        "detection": detection(raw, truth, data, detector, models["student"]),
        "counts": _counts(scenes, data, rows),
    }


def detect_all(model: Model, data: EvaluationSet, advance: Any) -> dict[str, Regions]:
    """All boxes of the model's detector on the photos of a set, including those with low scores."""
    refs = [ImageRef(e.file, data.photo(e.file)) for e in data.images]
    detections: dict[str, Regions] = {}
    assert model.detector is not None
    for photo in stream_photos(refs, side=model.decode_side):
        if isinstance(photo, Photo):
            detections[photo.id] = model.detector.detect([photo])[0]
        advance()
    return detections


def detection(
    raw: Mapping[str, Regions], truth: Detector, data: EvaluationSet, before: Path, student: Model
) -> dict[str, object]:
    """AP of the student's detector after and before the distillation."""
    photos = [Photo(name, np.zeros((3, 1, 1), np.uint8), boxes.size) for name, boxes in raw.items()]
    true = truth.detect(photos)
    after = coco_average_precision(list(raw.values()), true)
    old = load_model(before)
    if _same(old, student):
        return {**after, "AP50_before": after["AP50"], "change": "the distillation did not change it, bit for bit"}
    old_boxes = detect_all(old, data, lambda: None)
    earlier = coco_average_precision([old_boxes[name] for name in raw], true)
    change = f"before the distillation AP50 {100 * earlier['AP50']:.1f}, AP {100 * earlier['AP']:.1f}"
    return {**after, "AP50_before": earlier["AP50"], "change": change}


def _same(old: Model, new: Model) -> bool:
    """Whether two models have the same detector."""
    before, after = old.detector, new.detector
    if not isinstance(before, NetworkDetector) or not isinstance(after, NetworkDetector):
        return before is after
    first, second = before.state_dict(), after.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def _some_photos(scenes: Path) -> list[Path]:
    """Write a list of the first photos of the training split; returns its path."""
    names = sorted((scenes / "images").glob("train_*"))[:FITTED_PHOTOS]
    listing = scenes / "whitening.txt"
    listing.write_text("".join(f"images/{p.name}\n" for p in names), encoding="utf-8")
    return [listing]


def _cost(row: Mapping[str, object], times: Mapping[str, float]) -> dict[str, float | None]:
    source = next(r for r in ROWS if r.key == row["key"])
    if source.boxes == "truth":
        return {"ms": None, "cost": None}
    passes = times[source.describer] + (times["boxes"] if source.describer in TWO_PASSES else 0)
    return {"ms": passes, "cost": passes / times["student"]}


def _counts(scenes: Path, data: EvaluationSet, rows: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    coco = json.loads((scenes / "instances_train.json").read_text(encoding="utf-8"))
    return {
        "train_photos": len(coco["images"]),
        "train_instances": len({a["instance"] for a in coco["annotations"]}),
        "test_photos": len(data.images),
        "test_instances": len({i for e in data.objects for i in e.instances}),
        "queries": {kind: of_kind["queries"] for kind, of_kind in rows[0]["by_kind"].items()},
    }
