from __future__ import annotations

import json
from pathlib import Path

import pytest

from objemb.coco.files import read_coco
from objemb.coco.writing import AnnotatedImage, AnnotatedObject, write_instances

IMAGES = [
    AnnotatedImage("a.jpg", (40, 60), [AnnotatedObject((5, 6, 25, 16), "pan", {"score": 0.5, "instance": "q"})]),
    AnnotatedImage("sub/b.jpg", (10, 20)),
    AnnotatedImage("c.jpg", (8, 8), [AnnotatedObject((0, 0, 8, 2.5), "cup"), AnnotatedObject((1, 1, 2, 2), "pan")]),
]


def test_a_file_by_hand(tmp_path: Path) -> None:
    file = tmp_path / "coco.json"
    file.write_text("old")
    assert write_instances(file, iter(IMAGES), ["cup", "pan"], {"version": "1"}) == 3
    written = json.loads(file.read_bytes())
    assert list(written) == ["info", "images", "annotations", "categories"]
    assert written["info"] == {"version": "1"}
    assert written["images"][1] == {"id": 2, "file_name": "sub/b.jpg", "width": 20, "height": 10}
    first, second, third = written["annotations"]
    assert first == {
        "id": 1, "image_id": 1, "category_id": 2, "bbox": [5, 6, 20, 10], "score": 0.5, "instance": "q",
    }  # fmt: skip
    assert second == {"id": 2, "image_id": 3, "category_id": 1, "bbox": [0, 0, 8, 2.5]}
    assert third["id"] == 3
    assert written["categories"] == [{"id": 1, "name": "cup"}, {"id": 2, "name": "pan"}]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "coco.json"
    write_instances(file, IMAGES, ["cup", "pan"])
    read = read_coco(file)
    assert read.problems == ()
    assert [(i.file_name, i.size) for i in read.images] == [(i.file_name, i.size) for i in IMAGES]
    assert [(b.image, b.box, read.classes[b.label], b.score, b.instance) for b in read.boxes] == [
        ("1", (5, 6, 25, 16), "pan", 0.5, "q"),
        ("3", (0, 0, 8, 2.5), "cup", 1.0, None),
        ("3", (1, 1, 2, 2), "pan", 1.0, None),
    ]


def test_no_images_are_a_file_too(tmp_path: Path) -> None:
    assert write_instances(tmp_path / "coco.json", [], []) == 0
    assert json.loads((tmp_path / "coco.json").read_bytes()) == {"images": [], "annotations": [], "categories": []}


def test_an_unknown_category_is_an_error_and_the_old_file_stays(tmp_path: Path) -> None:
    file = tmp_path / "coco.json"
    file.write_text("old")
    with pytest.raises(ValueError, match=r"category: expected one of 'cup', 'pam', found 'pan' \(did you mean 'pam'"):
        write_instances(file, IMAGES, ["cup", "pam"])
    assert file.read_text() == "old"
