from __future__ import annotations

import numpy as np
import pytest

from objemb.datasets.scenes import Scenes, SceneSettings
from objemb.registry import build
from objemb.training.data.base import Examples
from objemb.training.data.scenes import SceneExamples
from tests.small_settings import SCENES

MINIMAL = {key: value for key, value in SCENES.items() if key != "name"}


def test_they_are_the_scenes_of_the_generator() -> None:
    examples = SceneExamples(
        split="val", count=3, families=2, settings=SceneSettings(seed=5, size=64, category="silhouette")
    )
    scenes = Scenes(SceneSettings(seed=5, size=64, val_families=2, val_scenes=3, category="silhouette"), "val")
    assert len(examples) == 3
    assert (examples.instances, examples.classes) == (scenes.instances, scenes.categories)
    for number in range(3):
        example, scene = examples[number], scenes[number]
        assert np.array_equal(example.photo.pixels.transpose(1, 2, 0), scene.pixels)
        assert np.array_equal(example.regions.boxes, scene.boxes)
        assert tuple(examples.instances[n] for n in example.instances) == scene.instances
        assert example.regions.label_names == scene.categories
        assert example.photo.id == f"val_{number:06d}"


def test_products_alone_and_of_any_size() -> None:
    examples = SceneExamples(count=6, families=2, settings=SceneSettings(size=64, alone=0.5, object_size=(0.1, 1)))
    scenes = Scenes(SceneSettings(train_families=2, train_scenes=6, size=64, alone=0.5, object_size=(0.1, 1)), "train")
    for number in range(6):
        assert np.array_equal(examples[number].photo.pixels.transpose(1, 2, 0), scenes[number].pixels)
    with pytest.raises(ValueError, match="settings: alone: expected a number from 0 to 1, found 2"):
        build(Examples, {"name": "scenes", "settings": {"alone": 2}})


def test_a_cache_changes_nothing_but_the_time() -> None:
    plain, cached = (
        SceneExamples(count=2, families=2, cache=c, settings=SceneSettings(size=32)) for c in (False, True)
    )
    assert np.array_equal(plain[1].photo.pixels, cached[1].photo.pixels)
    assert cached[1] is cached[1]
    assert plain[1] is not plain[1]


def test_bad_values_are_named() -> None:
    with pytest.raises(IndexError, match="example: expected a number from 0 to 1, found 2"):
        SceneExamples(count=2, families=2, settings=SceneSettings(size=32))[2]
    with pytest.raises(ValueError, match="split: expected one of 'train', 'val', 'test', found 'dev'"):
        SceneExamples(split="dev")
    with pytest.raises(ValueError, match="train_scenes: expected an integer of 1 or more, found 0"):
        SceneExamples(count=0)
