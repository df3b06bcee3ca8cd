from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from objemb.structures import Regions
from objemb.training.data.base import Example, Examples
from objemb.training.data.mixture import MixtureExamples
from tests.small_data import picture_folder
from tests.small_settings import SCENES
from tests.tiny import plain_photo


def minimal(folder: Path) -> dict[str, Any]:
    return {"data": [SCENES, {"name": "folder", "sources": picture_folder(folder)}]}


class Listed(Examples):
    """Photos ``<name>0``, ``<name>1`` ... with one box each, of the last class and the last identity."""

    def __init__(self, name: str, count: int, classes: tuple[str, ...] = (), instances: tuple[str, ...] = ()) -> None:
        self.name, self.count, self.classes, self.instances = name, count, classes, instances

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Example:
        photo = plain_photo(8, 8, (0, 0, 0), id=f"{self.name}{self._checked(number)}")
        extras = {"instances": torch.tensor([len(self.instances) - 1])} if self.instances else {}
        labels = torch.tensor([len(self.classes) - 1])
        box = torch.tensor([[1.0, 1, 5, 5]])
        return Example(photo, Regions(box, photo.size, labels=labels, classes=self.classes, extras=extras))


def ids(mixture: MixtureExamples) -> list[str]:
    return [mixture[n].photo.id for n in range(len(mixture))]


def test_shares_make_rounds() -> None:
    mixture = MixtureExamples(data=[Listed("a", 5), Listed("b", 2)], shares=[2, 1])
    assert ids(mixture) == ["0/a0", "0/a1", "1/b0", "0/a2", "0/a3", "1/b1", "0/a4", "0/a0", "1/b0"]
    assert ids(MixtureExamples(data=[Listed("a", 2), Listed("a", 1)])) == ["0/a0", "1/a0", "0/a1", "1/a0"]
    assert ids(MixtureExamples(data=[Listed("a", 5)], count=2)) == ["0/a0", "0/a1"]


def test_names_are_those_of_all_sources() -> None:
    mixture = MixtureExamples(
        data=[Listed("a", 1, ("cup", "pan"), ("x",)), Listed("b", 1, ("pan",), ("q", "r")), Listed("c", 1)]
    )
    assert (mixture.classes, mixture.instances) == (("cup", "pan"), ("q", "r", "x"))
    found = [mixture[n] for n in range(3)]
    assert [f.regions.labels.tolist() for f in found] == [[1], [1], [-1]]
    assert [f.regions.label_names for f in found] == [("pan",), ("pan",), (None,)]
    assert [f.instances.tolist() for f in found] == [[2], [1], [-1]]


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"shares: expected one per source \(2\), found 1"):
        MixtureExamples(data=[Listed("a", 1), Listed("b", 1)], shares=[1])
    with pytest.raises(ValueError, match="shares: expected an integer of 1 or more, found 0"):
        MixtureExamples(data=[Listed("a", 1)], shares=[0])
    with pytest.raises(ValueError, match=r"data\[1\]: expected at least one example, found none"):
        MixtureExamples(data=[Listed("a", 1), Listed("b", 0)])
    with pytest.raises(ValueError, match="data: expected a list"):
        MixtureExamples(data=[])
    with pytest.raises(IndexError, match="from 0 to 0"):
        MixtureExamples(data=[Listed("a", 1)])[1]
