"""The rows of the demo's table: methods that use the networks that the demo has trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from objemb.aggregators.keep import Keep
from objemb.card import read_card
from objemb.config import load_config
from objemb.detectors.stored_boxes import StoredBoxes
from objemb.models import Model, build_model, fit_whitening, load_model


@dataclass(frozen=True)
class ComparedMethod:
    """A row of the table.

    Attributes:
        key: Identifier of the row.
        title: Name of the row in the table.
        describer: A key of :func:`open_describers`; rows that share one are described once.
        boxes: ``own`` regions of the method, boxes of the ``detector``, or ``truth``.
        total: Whether a photo has one vector, the sum of its regions, instead of a vector for each region.
        cut: Whether a query box is cut out of its photo at the same scale and described as a photo of its own, as in
            the papers of the rigid methods; otherwise it is described within its photo, like the boxes of the database.
            A query that is a picture of a product is described as a whole; rows with ``total`` sum its regions.
    """

    key: str
    title: str
    describer: str
    boxes: str
    total: bool = False
    cut: bool = False


ROWS = (
    ComparedMethod("whole", "whole image", "whole", "own", cut=True),
    ComparedMethod("rmac_sum", "R-MAC, sum", "rmac", "own", total=True, cut=True),
    ComparedMethod("rmac", "R-MAC, best match", "rmac", "own"),
    ComparedMethod("detector", "detector's own features under its boxes", "detector", "detector"),
    ComparedMethod("map_sum", "two passes, pooled map under the detector's boxes, sum", "map", "detector", total=True),
    ComparedMethod("map", "two passes, pooled map under the detector's boxes", "map", "detector"),
    ComparedMethod("crop", "two passes, a crop per box of the detector (the teacher)", "crop", "detector"),
    ComparedMethod("student_sum", "one pass, sum", "student", "detector", total=True),
    ComparedMethod("student", "one pass (the student)", "student", "detector"),
    ComparedMethod("crop_truth", "a crop per true box", "crop", "truth"),
    ComparedMethod("student_truth", "one pass, true boxes", "student", "truth"),
)

#: The teacher's row for each source of boxes; other rows show their share of its mAP.
TEACHERS = {"own": "crop", "detector": "crop", "truth": "crop_truth"}


@dataclass(frozen=True)
class DemoFiles:
    """Results of the earlier steps.

    Attributes:
        teacher: Model folder of the classification teacher.
        student: Model folder of the student, whose detector all rows use.
        photos: Photos on which the baselines' whitenings are fitted, from the teacher's training data.
        truth: COCO file with the boxes of these photos.
        size: Longest side of a photo at the networks' input, in pixels.
    """

    teacher: Path
    student: Path
    photos: Sequence[Path]
    truth: Path
    size: int


def open_describers(files: DemoFiles) -> dict[str, Model]:
    """The models by name, all of the same dimension, each whitened on the kind of regions that it pools.

    A whitening fitted on boxes would put the rigid methods at a disadvantage. Sum and best match of one method share a
    whitening, fitted on all regions and the whole image, so that these rows differ in the matching only.
    """
    teacher = load_model(files.teacher)
    trunk = {**_part(files.teacher, "backbone"), "weights": str(files.teacher)}
    detector = {**_part(files.student, "detector"), "weights": str(files.student)}
    own = {"name": "detector_trunk", "detector": detector}
    boxes = StoredBoxes(files.truth)
    return {
        "whole": _whitened(_pooled("mean", trunk, files), teacher.dim, files, None),
        "rmac": _whitened(_pooled("rmac", trunk, files), teacher.dim, files, None),
        "detector": _whitened(_pooled("hard_attention_map", own, files), teacher.dim, files, boxes),
        "map": _whitened(_pooled("hard_attention_map", trunk, files), teacher.dim, files, boxes),
        "crop": replace(teacher, aggregator=Keep()),
        "student": replace(load_model(files.student), aggregator=Keep()),
    }


def _pooled(method: str, backbone: dict[str, Any], files: DemoFiles) -> Model:
    settings = load_config(method, ("aggregator.name=keep",))
    settings["describer"]["backbone"] = backbone
    settings["describer"]["extractor"]["size"] = files.size
    return build_model(settings)


def _whitened(model: Model, dim: int, files: DemoFiles, boxes: StoredBoxes | None) -> Model:
    return fit_whitening(model, [*files.photos], boxes=boxes, dim=min(dim, model.dim))


def _part(folder: Path, key: str) -> dict[str, object]:
    """The settings of the first part of a kind in a model folder."""
    waiting = [read_card(folder)["settings"]["describer"]]
    while waiting:
        part = waiting.pop(0)
        if isinstance(part.get(key), dict):
            return dict(part[key])
        waiting += [value for value in part.values() if isinstance(value, dict)]
    raise ValueError(f"{folder}: expected a model with a {key}, found none in its settings")
