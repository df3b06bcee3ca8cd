from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from objemb.datasets.scenes import Scenes, SceneSettings
from objemb.training.data.base import expect_boxes
from objemb.training.data.coco import CocoExamples
from objemb.training.data.mixture import MixtureExamples
from objemb.training.data.photos import PhotoExamples
from tests.small_data import coco_pictures


def minimal(folder: Path) -> dict[str, Any]:
    return {"file": coco_pictures(folder)}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Scenes]:
    folder = tmp_path_factory.mktemp("scenes")
    settings = SceneSettings(size=64, train_scenes=4, train_families=2, objects_per_scene=(1, 3))
    scenes = Scenes(settings, "train")
    scenes.write(folder, format="png")
    return folder, scenes


def test_generated_scenes_come_back(written: tuple[Path, Scenes]) -> None:
    folder, scenes = written
    examples = CocoExamples(file=folder / "instances_train.json", masks=True)
    assert len(examples) == 4
    assert examples.classes == ("object",)
    for number in range(4):
        scene, example = scenes[number], examples[number]
        assert example.photo.id == f"train_{number:06d}.png"
        assert torch.equal(torch.as_tensor(example.photo.pixels), torch.as_tensor(scene.pixels).permute(2, 0, 1))
        assert torch.equal(torch.as_tensor(example.regions.boxes), torch.as_tensor(scene.boxes))
        assert tuple(examples.instances[i] for i in example.instances.tolist()) == scene.instances
        assert example.regions.extras["masks"].shape == (len(scene.boxes), 28, 28)
    again = pickle.loads(pickle.dumps(examples))[2]
    assert torch.equal(torch.as_tensor(again.regions.boxes), torch.as_tensor(examples[2].regions.boxes))
    with pytest.raises(IndexError):
        examples[4]
    assert len(CocoExamples(file=folder / "instances_train.json", count=2)) == 2


def test_wrong_entries_are_left_out_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (30, 20)).save(tmp_path / name)
    (tmp_path / "c.png").write_bytes(b"no picture")
    names = ["a.png", "gone.png", "c.png", "b.png"]
    data = {
        "images": [{"id": n, "file_name": name, "width": 30, "height": 20} for n, name in enumerate(names)],
        "annotations": [
            {"id": 5, "image_id": 0, "category_id": 1, "bbox": [1, 1, 5, 5]},
            {"id": 6, "image_id": 0, "category_id": 1, "bbox": [50, 1, 5, 5]},
            {"id": 7, "image_id": 0, "category_id": 1, "bbox": [1, 1, 5, 5], "iscrowd": 1},
        ],
        "categories": [{"id": 1, "name": "cup"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(data), encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        examples = CocoExamples(file=tmp_path / "instances.json")
        found = [examples[n] for n in range(3)]
    assert [e.photo.id for e in found] == ["a.png", "b.png", "b.png"], "the next that can be read"
    assert [len(e.regions) for e in found] == [1, 0, 0]
    for expected in ("gone.png: left out", "(id 6)", "(id 7)", "c.png: left out"):
        assert sum(expected in message for message in caplog.messages) == 1
    assert "instances" not in found[0].regions.extras
    assert (found[0].instances == -1).all()


def test_pictures_elsewhere(written: tuple[Path, Scenes], tmp_path: Path) -> None:
    folder, _ = written
    (tmp_path / "moved.json").write_bytes((folder / "instances_train.json").read_bytes())
    assert len(CocoExamples(file=tmp_path / "moved.json", images=folder / "images")) == 4
    with pytest.raises(ValueError, match=r"expected the pictures of .*moved\.json in .*found not even"):
        CocoExamples(file=tmp_path / "moved.json")
    with pytest.raises(ValueError, match="count"):
        CocoExamples(file=folder / "instances_train.json", count=5)


def _written(folder: Path, boxes: list[list[float]], **more: object) -> Path:
    """Two pictures of 30 x 20 pixels; all boxes are of the first."""
    for name in ("a.png", "b.png"):
        Image.new("RGB", (30, 20)).save(folder / name)
    data = {
        "images": [
            {"id": n, "file_name": f"{name}.png", "width": 30, "height": 20, **more} for n, name in enumerate("ab")
        ],
        "annotations": [{"id": n, "image_id": 0, "category_id": 1, "bbox": b} for n, b in enumerate(boxes)],
        "categories": [{"id": 1, "name": "cup"}],
    }
    file = folder / "instances.json"
    file.write_text(json.dumps(data), encoding="utf-8")
    return file


def test_boxes_scale_with_their_picture(tmp_path: Path) -> None:
    examples = CocoExamples(file=_written(tmp_path, [[10, 20, 30, 40]], width=300, height=200))
    assert examples[0].regions.boxes.tolist() == [[1, 2, 4, 6]]
    assert len(examples[1].regions) == 0


def test_a_picture_whose_boxes_are_of_another_one_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As a picture without boxes, it would teach that what is in it is background."""
    examples = CocoExamples(file=_written(tmp_path, [[5, 5, 5, 5]], width=20, height=30))
    with caplog.at_level(logging.WARNING):
        assert [examples[n].photo.id for n in range(2)] == ["b.png", "b.png"]
    (message,) = caplog.messages
    assert "a.png: left out: expected a photo of 20 x 30 pixels, rotated or scaled, found 30 x 20" in message
    (tmp_path / "b.png").unlink()
    with pytest.raises(ValueError, match="found that none of 1 can be used"):
        CocoExamples(file=tmp_path / "instances.json")[0]


def test_boxes_are_counted_before_pictures_are_read(tmp_path: Path) -> None:
    boxes: list[list[float]] = [[5, 5, 5, 5], [29, 19, 90, 90], [30, 5, 5, 5], [-9, 0, 9, 5]]
    examples = CocoExamples(file=_written(tmp_path, boxes))
    assert examples.box_count() == 2
    expect_boxes("data", examples)
    assert MixtureExamples(data=[examples, examples]).box_count() == 4
    none = CocoExamples(file=_written(tmp_path, [[30, 5, 5, 5]]))
    with pytest.raises(
        ValueError, match="data: expected photos with boxes, found no usable box in any of the 2 photos"
    ):
        expect_boxes("data", none)
    assert MixtureExamples(data=[examples, PhotoExamples(sources=tmp_path)]).box_count() is None
    expect_boxes("data", PhotoExamples(sources=tmp_path))


def test_pictures_are_found_in_either_form_of_their_letters(tmp_path: Path) -> None:
    file = _written(tmp_path, [[1, 1, 5, 5]])
    file.write_text(file.read_text().replace("a.png", "caf\u00e9.png"), encoding="utf-8")
    (tmp_path / "a.png").rename(tmp_path / "cafe\u0301.png")
    assert len(CocoExamples(file=file)[0].regions) == 1
