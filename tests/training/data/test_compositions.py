from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from objemb.datasets.compose import ComposeSettings, compose
from objemb.registry import from_settings, resolve
from objemb.training.data.compositions import CompositionExamples
from tests.datasets.pictures import write_ingredients


def minimal(folder: Path) -> dict[str, Any]:
    if not (folder / "products").is_dir():
        write_ingredients(folder, products=2, views=1, photos=2)
    settings = {"size": 64, "count": 3, "val_share": 0}
    return {"objects": folder / "products", "backgrounds": folder / "photos", "settings": settings}


SETTINGS: dict[str, Any] = {
    **{"size": 96, "count": 5, "val_count": 4, "val_share": 0.5},
    **{"object_size": [0.2, 0.4], "alone": 0},
}


def examples(folder: Path, **arguments: Any) -> CompositionExamples:
    if not (folder / "products").exists():
        write_ingredients(folder)
    settings = from_settings(ComposeSettings, arguments.pop("settings", SETTINGS), "settings")
    return CompositionExamples(
        objects=folder / "products", backgrounds=[folder / "photos"], settings=settings, **arguments
    )


def test_they_are_the_scenes_that_prepare_data_writes(tmp_path: Path) -> None:
    found = {split: examples(tmp_path, split=split) for split in ("train", "val")}
    written = compose(
        [tmp_path / "products"],
        [tmp_path / "photos"],
        tmp_path / "out",
        from_settings(ComposeSettings, SETTINGS, "settings"),
    )
    for split, part in found.items():
        assert len(part) == written[split]["images"]
        assert list(part.instances) == written[split]["names"]
        assert sum(len(part[n].regions) for n in range(len(part))) == written[split]["annotations"]
    assert not set(found["train"].instances) & set(found["val"].instances)


def test_boxes_have_a_class_and_an_identity(tmp_path: Path) -> None:
    part = examples(tmp_path)
    example = part[2]
    assert part.classes == ("object",)
    assert example.photo.id == "train_000002"
    assert tuple(example.photo.pixels.shape) == (3, 96, 96)
    assert (example.regions.labels == 0).all()
    assert set(example.instances.tolist()) <= set(range(len(part.instances)))
    scene = part.scenes[2]
    assert np.array_equal(example.photo.pixels.transpose(1, 2, 0), scene.pixels)
    assert torch.equal(torch.as_tensor(example.regions.boxes), torch.as_tensor(scene.boxes))


def test_products_alone_are_examples_like_others(tmp_path: Path) -> None:
    part = examples(tmp_path, settings=SETTINGS | {"alone": 1}, count=3)
    for number in range(3):
        example = part[number]
        assert example.photo.size == tuple(example.photo.pixels.shape[1:]) == example.regions.size
        assert example.photo.size[0] == 96 > example.photo.size[1]
        assert example.regions.labels.tolist() == [0]
        assert 0 <= int(example.instances) < len(part.instances)


def test_other_things_are_boxes_without_either(tmp_path: Path) -> None:
    settings = SETTINGS | {"annotate_distractors": True, "distractors_per_scene": [2, 2], "val_share": 0}
    part = examples(tmp_path, settings=settings, count=3)
    assert (len(part), len(part.instances)) == (3, 4)
    others = torch.cat([part[n].instances == -1 for n in range(3)])
    assert others.any()
    assert torch.equal(torch.cat([torch.as_tensor(part[n].regions.labels) == -1 for n in range(3)]), others)


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data.settings: unknown key 'counts' \(did you mean 'count'\?\)"):
        resolve(
            "training.data",
            {"name": "compositions", "objects": "a", "backgrounds": "b", "settings": {"counts": 3}},
            "data",
        )
    with pytest.raises(ValueError, match="split: expected a product in 'val', found none with val_share=0"):
        examples(tmp_path, settings=SETTINGS | {"val_share": 0}, split="val")
    with pytest.raises(ValueError, match="split: expected one of 'train', 'val', found 'test'"):
        examples(tmp_path, split="test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="backgrounds: expected at least one picture"):
        CompositionExamples(objects=tmp_path / "products", backgrounds=tmp_path / "empty")
