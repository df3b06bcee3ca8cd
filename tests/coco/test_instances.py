from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from objemb.coco.instances import CocoInstances
from objemb.structures import Photo
from tests.tiny import plain_photo


def entry(id: int, image: int = 1, category: int = 7, bbox: Any = (5, 5, 20, 10), **more: Any) -> dict[str, Any]:
    return {"id": id, "image_id": image, "category_id": category, "bbox": bbox, **more}


def write(folder: Path, annotations: list[Any]) -> Path:
    data = {
        "images": [
            {"id": 1, "file_name": "a.jpg", "width": 60, "height": 40},
            {"id": 2, "file_name": "b.jpg", "width": 60, "height": 40},
        ],
        "annotations": annotations,
        "categories": [{"id": 90, "name": "pan"}, {"id": 7, "name": "cup"}, {"id": 91, "name": "distractor"}],
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def photo(size: tuple[int, int] = (40, 60)) -> Photo:
    return plain_photo(*size, (0, 0, 0), id="a.jpg")


def test_category_ids_become_labels_in_their_order(tmp_path: Path) -> None:
    found = CocoInstances(write(tmp_path, [entry(1, category=90), entry(2, bbox=(50, 30, 40, 40))]))
    assert found.classes == ("cup", "pan", "distractor")
    assert [i.file_name for i in found.images] == ["a.jpg", "b.jpg"]
    regions, names = found.regions(0, photo())
    assert regions.boxes.tolist() == [[5, 5, 25, 15], [50, 30, 60, 40]]
    assert regions.label_names == ("pan", "cup")
    assert names == (None, None)
    assert len(found.regions(1, photo())[0]) == 0
    assert found.problems == []


def test_one_class_on_demand(tmp_path: Path) -> None:
    found = CocoInstances(write(tmp_path, [entry(1, category=90), entry(2)]), class_agnostic=True)
    assert found.classes == ("object",)
    assert found.regions(0, photo())[0].labels.tolist() == [0, 0]


def test_identities_are_those_of_the_file(tmp_path: Path) -> None:
    annotations = [
        entry(1, instance="q"),
        entry(2, instance="b"),
        entry(3, instance=4),
        entry(4, category=91, instance="thing"),
    ]
    found = CocoInstances(write(tmp_path, annotations))
    assert found.instances == ("b", "q")
    assert found.regions(0, photo())[1] == ("q", "b", None, None)


def test_bad_annotations_are_named_by_their_id_and_left_out(tmp_path: Path) -> None:
    bad = [
        entry(11, iscrowd=1),
        entry(12, bbox=(5, 5, 0, 3)),
        entry(13, image=9),
        entry(14, category=8),
        entry(15, bbox=(70, 5, 5, 5)),
        "text",
    ]
    found = CocoInstances(write(tmp_path, [*bad, entry(16)]))
    regions, _ = found.regions(0, photo())
    assert len(regions) == 1
    named = dict(found.problems)
    assert list(named) == [
        "annotations[0] (id 11)",
        "annotations[1] (id 12)",
        "annotations[2] (id 13)",
        "annotations[3] (id 14)",
        "annotations[5]",
        "annotations[4] (id 15)",
    ]
    assert "crowd" in named["annotations[0] (id 11)"]
    found.regions(0, photo())
    assert len(found.problems) == 6, "each once"


def test_masks_on_demand(tmp_path: Path) -> None:
    path = write(tmp_path, [entry(1, segmentation=[[5, 5, 15, 5, 15, 15, 5, 15]])])
    (mask,) = CocoInstances(path, masks=True).regions(0, photo())[0].array("masks")
    assert mask[:, :14].all()
    assert not mask[:, 14:].any()
    assert CocoInstances(path).regions(0, photo())[0].extras == {}


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        CocoInstances(tmp_path / "none.json")
    (tmp_path / "empty.json").write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(ValueError, match=r"empty\.json: expected COCO instances with at least one image"):
        CocoInstances(tmp_path / "empty.json")
    with pytest.raises(ValueError, match="class_agnostic: expected true or false"):
        CocoInstances(write(tmp_path, []), class_agnostic="no")  # type: ignore[arg-type]
