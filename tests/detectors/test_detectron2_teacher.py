"""What can be tested without Detectron2: the teacher's mapper, and the error of who has not installed it."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from objemb.detectors.detectron2_rcnn import Detectron2Rcnn, TeacherMapper, add_embedding_head_config
from objemb.structures import Photo, RegionDescriptors, Regions


class Corners:
    """Describes a box by its corners, and by the colour of the photo's first pixel."""

    def describe(self, photos: list[Photo], regions: list[Regions]) -> list[RegionDescriptors]:
        (photo,), (boxes,) = photos, regions
        colour = torch.as_tensor(photo.pixels)[:, 0, 0].float().expand(len(boxes), 3)
        return [RegionDescriptors(photo.id, boxes, torch.cat([torch.as_tensor(boxes.boxes), colour], dim=1))]


class Fields(SimpleNamespace):
    def __len__(self) -> int:
        return len(self.gt_boxes.tensor)


def mapped(boxes: list[list[float]]) -> dict[str, Any]:
    image = torch.zeros(3, 20, 30, dtype=torch.uint8)
    image[0] = 7
    tensor = torch.tensor(boxes).reshape(-1, len(boxes[0]) if boxes else 4)
    return {"image": image, "instances": Fields(gt_boxes=SimpleNamespace(tensor=tensor))}


def test_the_teacher_sees_the_picture_that_the_student_sees() -> None:
    mapper = TeacherMapper(lambda entry: mapped(entry["boxes"]), Corners())
    instances = mapper({"boxes": [[1.0, 2, 3, 4], [5, 6, 30.001, 20]]})["instances"]
    assert instances.gt_embeddings.tolist() == [[1, 2, 3, 4, 0, 0, 7], [5, 6, 30, 20, 0, 0, 7]], "blue comes first"
    assert instances.gt_image_embeddings.tolist() == [[0, 0, 30, 20, 0, 0, 7]] * 2
    instances = TeacherMapper(lambda entry: mapped([]), Corners(), "RGB")({})["instances"]
    assert instances.gt_embeddings.shape == instances.gt_image_embeddings.shape == (0, 7)


def test_what_has_no_boxes_is_passed_on() -> None:
    assert TeacherMapper(lambda entry: None, Corners())({}) is None
    assert TeacherMapper(lambda entry: {"image": 1}, Corners())({}) == {"image": 1}
    with pytest.raises(ValueError, match="image_format: expected one of 'BGR', 'RGB', found 'L'"):
        TeacherMapper(mapped, Corners(), "L")


def test_rotated_boxes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"gt_boxes: expected upright boxes .*, found 5 numbers a box, as of rotated"):
        TeacherMapper(lambda entry: mapped([[1.0, 2, 3, 4, 45]]), Corners())({})


def test_without_detectron2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "detectron2", None)
    for attempt in (Detectron2Rcnn, lambda: add_embedding_head_config(None)):
        with pytest.raises(ImportError, match=r"INSTALL.md, or pip install .*github.com/facebookresearch/detectron2"):
            attempt()
