"""The rows of the demo's table: one way each to describe photos, on the networks that the demo has trained."""

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
    """A line of the table.

    Attributes:
        key: Its name for programs.
        title: Its name for people.
        describer: A key of :func:`open_describers`; rows that share one are described once.
        boxes: ``own`` regions of the method, or those of the ``detector``, or the ``truth``.
        total: Whether a photo is the sum of its regions, one vector, instead of its best region.
        cut: Whether a query box is cut out of its photo, at the same scale, and described as a photo of its own, as
            the papers of the rigid methods do; else it is described where it is, as the boxes of the database are. A
            query that is a picture is looked at whole, by rows that sum up their regions as a photo.
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

#: The reference row, which describes each box as a crop, by the source of boxes; other rows are shares of its mAP.
TEACHERS = {"own": "crop", "detector": "crop", "truth": "crop_truth"}


@dataclass(frozen=True)
class Made:
    """What the steps before have made.

    Attributes:
        teacher: Model folder of the classification teacher.
        student: Model folder of the student, whose detector is *the* detector.
        photos: Photos on which the baselines' whitenings are fitted, those of the teacher's training.
        truth: COCO file of their boxes.
        size: Longest side of a photo in pixels, that of the networks' input.
    """

    teacher: Path
    student: Path
    photos: Sequence[Path]
    truth: Path
    size: int


def open_describers(made: Made) -> dict[str, Model]:
    """The models by name, all with the same length of vectors, each whitened on the kind of region that it pools.

    A whitening that was fitted on boxes would make the rigid methods look worse than they are. Sum and best match of
    one method share a whitening, learned from all regions and the whole image, so that rows differ by the matching.
    """
    teacher = load_model(made.teacher)
    trunk = {**_part(made.teacher, "backbone"), "weights": str(made.teacher)}
    detector = {**_part(made.student, "detector"), "weights": str(made.student)}
    own = {"name": "detector_trunk", "detector": detector}
    boxes = StoredBoxes(made.truth)
    return {
        "whole": _whitened(_pooled("mean", trunk, made), teacher.dim, made, None),
        "rmac": _whitened(_pooled("rmac", trunk, made), teacher.dim, made, None),
        "detector": _whitened(_pooled("hard_attention_map", own, made), teacher.dim, made, boxes),
        "map": _whitened(_pooled("hard_attention_map", trunk, made), teacher.dim, made, boxes),
        "crop": replace(teacher, aggregator=Keep()),
        "student": replace(load_model(made.student), aggregator=Keep()),
    }


def _pooled(method: str, backbone: dict[str, Any], made: Made) -> Model:
    settings = load_config(method, ("aggregator.name=keep",))
    settings["describer"]["backbone"] = backbone
    settings["describer"]["extractor"]["size"] = made.size
    return build_model(settings)


def _whitened(model: Model, dim: int, made: Made, boxes: StoredBoxes | None) -> Model:
    return fit_whitening(model, [*made.photos], boxes=boxes, dim=min(dim, model.dim))


def _part(folder: Path, key: str) -> dict[str, object]:
    """The settings of the first part of that kind in a model folder."""
    waiting = [read_card(folder)["settings"]["describer"]]
    while waiting:
        part = waiting.pop(0)
        if isinstance(part.get(key), dict):
            return dict(part[key])
        waiting += [value for value in part.values() if isinstance(value, dict)]
    raise ValueError(f"{folder}: expected a model with a {key}, found none in its settings")
