from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from objemb.structures import Photo, Regions
from objemb.training.finding import counts_classes, find
from tests.training.learners import Noisy, task


class Knows:
    """Finds what is there, as one class or with the classes it is told."""

    def __init__(self, classes: tuple[str, ...], label: int) -> None:
        self.classes, self.num_classes, self.label = classes, max(1, len(classes)), label

    def detect(self, photos: Sequence[Photo]) -> list[Regions]:
        (photo,) = photos
        truth = Noisy()[int(photo.id.split()[1])].regions
        return [Regions(truth.boxes, truth.size, labels=torch.full((len(truth),), self.label))]


class Two(Noisy):
    classes = ("other", "thing")

    def __getitem__(self, number: int) -> Any:
        example = super().__getitem__(number)
        labels = torch.ones(len(example.regions), dtype=torch.int64)
        regions = Regions(example.regions.boxes, example.photo.size, labels=labels, classes=self.classes)
        return type(example)(example.photo, regions)


def test_labels_count_where_they_are_the_same() -> None:
    wrong, right = Knows(("other", "thing"), 0), Knows(("other", "thing"), 1)
    assert counts_classes(right, Two())  # type: ignore[arg-type]
    assert not counts_classes(Knows(("thing", "other"), 1), Two())  # type: ignore[arg-type]
    found = find(right, Two())["AP50"]  # type: ignore[arg-type]
    assert found > 0.3, "half of the boxes have no area: nothing overlaps them"
    assert find(wrong, Two())["AP50"] == 0  # type: ignore[arg-type]
    assert find(Knows(("thing",), 0), Two())["AP50"] == found  # type: ignore[arg-type]


def test_data_without_labels_tells_nothing() -> None:
    class Plain(Noisy):
        classes = ()

    assert find(task().describer.detector, Plain()) == {}
