"""Every source of training data keeps to the contract of its kind."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from objemb.training.data.base import Examples
from tests.contracts.made import build, every, in_frame


@every("training.data")
class TestExamples:
    def test_an_example_is_a_function_of_its_number(self, name: str, tmp_path: Path) -> None:
        first, second = (build("training.data", name, tmp_path) for _ in range(2))
        assert len(first) == len(second) > 0
        for number in reversed(range(len(first))):
            one, other = first[number], second[number]
            assert one.photo.id == other.photo.id
            assert np.array_equal(one.photo.pixels, other.photo.pixels)
            assert one.regions.to_json() == other.regions.to_json()

    def test_boxes_labels_and_identities(self, name: str, tmp_path: Path) -> None:
        examples: Examples = build("training.data", name, tmp_path)
        for number in range(len(examples)):
            example = examples[number]
            assert in_frame(example.regions, example.photo)
            assert example.instances.shape == (len(example.regions),)
            assert (example.instances < max(1, len(examples.instances))).all()
            assert example.regions.classes in ((), tuple(examples.classes))

    def test_ids_are_different(self, name: str, tmp_path: Path) -> None:
        examples = build("training.data", name, tmp_path)
        ids = [examples[i].photo.id for i in range(len(examples))]
        assert len(set(ids)) == len(ids) or name == "mixture", "a mixture repeats the shorter of its sources"

    def test_beyond_the_last(self, name: str, tmp_path: Path) -> None:
        examples = build("training.data", name, tmp_path)
        for number in (len(examples), -1):
            with pytest.raises(IndexError):
                examples[number]

    def test_they_reach_other_processes(self, name: str, tmp_path: Path) -> None:
        examples = pickle.loads(pickle.dumps(build("training.data", name, tmp_path)))
        there = pickle.loads(pickle.dumps(examples[0]))
        assert there.regions.to_json() == examples[0].regions.to_json()
