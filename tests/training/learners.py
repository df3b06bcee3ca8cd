"""The smallest student, teacher and scenes for tests of distillation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from objemb.structures import Regions
from objemb.training.data.base import Example, Examples
from objemb.training.task import build_task
from objemb.training.tasks.distill import Distill
from tests.tiny import random_photo

TEACHER: dict[str, Any] = {
    "name": "pooled_regions",
    "regions": {"name": "whole_image"},
    "backbone": {"name": "narrow_resnet", "width": 2, "blocks": [1, 1, 1, 1], "layer": "layer3"},
    "extractor": {"name": "crop", "size": 16},
    "pooling": {"name": "mean"},
}
STUDENT: dict[str, Any] = {
    "name": "one_pass",
    "detector": {
        "name": "faster_rcnn",
        "backbone": {"name": "narrow_resnet", "width": 2, "blocks": [1, 1, 1, 1]},
        "pyramid_strides": [8, 16],
        "channels": 8,
        "box_width": 8,
        "proposals": 20,
        "min_size": 48,
        "max_size": 96,
        "score_threshold": 0.0,
        "max_detections": 5,
    },
    "min_score": 0.0,
    "max_regions": 3,
    "head": {"name": "embedding", "dim": 8, "width": 8, "samples": 3, "sampling_ratio": 1},
}


class Noisy(Examples):
    """Noise of two shapes; photo ``n`` has ``n`` boxes of identities 0, 1, 0 ..., a box of no area at their end."""

    classes = ("thing",)
    instances = ("even", "odd")

    def __init__(self, *, count: int = 4) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Example:
        height, width = (40, 60) if self._checked(number) % 2 else (60, 40)
        photo = random_photo(height, width, seed=number, id=f"noise {number}")
        boxes = torch.tensor([[2.0 + 3 * n, 3, 20 + 3 * n, 35] for n in range(number)]).reshape(-1, 4)
        if number:
            boxes[-1] = torch.tensor([5.0, 5, 5, 5])
        extras = {"instances": torch.arange(number) % 2}
        labels = torch.zeros(number, dtype=torch.int64)
        return Example(photo, Regions(boxes, photo.size, labels=labels, classes=self.classes, extras=extras))


def task(examples: Examples | None = None, *, seed: int = 0, **arguments: Any) -> Distill:
    """A distillation whose every part is tiny."""
    examples = examples or Noisy()
    settings = {"name": "distill", "describer": STUDENT, "teacher": TEACHER, "data": examples, **arguments}
    made = build_task(settings, seed=seed)
    made.settings = {"name": "distill", "describer": STUDENT, "teacher": TEACHER}
    assert isinstance(made, Distill)
    return made


def batch(examples: Examples, numbers: Sequence[int] = (0, 1, 2, 3)) -> list[Example]:
    return [examples[n] for n in numbers]
