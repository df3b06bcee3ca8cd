from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from objemb.detectors.stored_boxes import StoredBoxes
from objemb.structures import Photo

SHARED = Path(__file__).parents[3] / "shared" / "data"
NAN = float("nan")


def photo(name: str, size: tuple[int, int] = (40, 60)) -> Photo:
    return Photo(name, torch.zeros(3, 2, 3, dtype=torch.uint8), size)


def image(number: Any, name: Any, **more: Any) -> dict[str, Any]:
    return {"id": number, "file_name": name, "width": 60, "height": 40, **more}


def box(image_id: Any = 1, category_id: Any = 7, bbox: Any = (10, 5, 20, 10), **more: Any) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category_id, "bbox": list(bbox), **more}


@pytest.fixture
def store(tmp_path: Path):
    def build(annotations=(), images=None, categories=None, **options: Any) -> StoredBoxes:
        content = {
            "images": [image(1, "a.jpg")] if images is None else images,
            "annotations": list(annotations),
            "categories": [{"id": 7, "name": "cup"}, {"id": 3, "name": "pot"}] if categories is None else categories,
        }
        (tmp_path / "instances.json").write_text(json.dumps(content))
        return StoredBoxes(tmp_path / "instances.json", **options)

    return build


def test_boxes_become_edges_with_0_based_labels(store) -> None:
    detector = store([box(bbox=(10, 5, 20, 10.5)), box(category_id=3, bbox=(0, 0, 60, 40))])
    found = detector.detect([photo("a.jpg")])[0]
    assert found.boxes.tolist() == [[10, 5, 30, 15.5], [0, 0, 60, 40]]
    assert detector.classes == ("pot", "cup")
    assert found.label_names == ("cup", "pot")
    assert found.scores.tolist() == [1, 1]
    assert found.size == (40, 60)
    assert found.extras == {}
    assert detector.problems == []


def test_best_scores_come_first_and_low_ones_not_at_all(store) -> None:
    found = store([box(score=s) for s in (0.3, 0.9, 0.1, 0.5)], min_score=0.2).detect([photo("a.jpg")])[0]
    assert found.scores.tolist() == pytest.approx([0.9, 0.5, 0.3])


def test_all_scores_count_unless_told_otherwise(store) -> None:
    found = store([box(score=s) for s in (-2.0, 0.5, -0.1)]).detect([photo("a.jpg")])[0]
    assert found.scores.tolist() == pytest.approx([0.5, -0.1, -2.0])


def test_photos_without_boxes_are_normal(store) -> None:
    detector = store(images=[image(1, "a.jpg")])
    known, unknown, again = detector.detect([photo("a.jpg"), photo("b.jpg"), photo("b.jpg")])
    assert len(known) == len(unknown) == len(again) == 0
    assert known.classes == ("pot", "cup")
    assert [p[0] for p in detector.problems] == ["b.jpg"]
    assert detector.detect([]) == []


def test_photos_are_found_by_id_then_name_then_last_part(store) -> None:
    images = [image(1, "x/a.jpg"), image(2, "y/a.jpg"), image(3, "b.jpg"), image("4.jpg", "c.jpg"), image(5, "4.jpg")]
    detector = store([box(i["id"], bbox=(n, 0, 1, 1)) for n, i in enumerate(images)], images)

    def first(name: str) -> float:
        return float(detector.detect([photo(name)])[0].boxes[0, 0])

    assert first("4.jpg") == 3  # the id comes before the file name
    assert first("2") == 1
    assert first("y/a.jpg") == 1
    assert first("/data/x/a.jpg") == 0  # folders decide
    assert first("/data/b.jpg") == 2
    with pytest.raises(ValueError, match=r"photo '/data/a\.jpg', found 'x/a\.jpg' \(id 1\) and 'y/a\.jpg' \(id 2\)"):
        first("/data/a.jpg")
    with pytest.raises(ValueError, match="expected one image"):
        first("z/a.jpg")


def test_a_file_without_names_is_found_by_its_numbers(store, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps([box(139, score=0.5), box("shelf", score=0.5)]))
    detector = StoredBoxes(tmp_path / "results.json")
    found = detector.detect([photo(name) for name in ("val/000000000139.jpg", "139.png", "shelf.jpg", "39.jpg")])
    assert [len(r) for r in found] == [1, 1, 1, 0]
    named = store([box(139)], [image(139, "cup.jpg")])
    assert len(named.detect([photo("000000000139.jpg")])[0]) == 0, "a name is a name"


def test_names_are_no_patterns(store) -> None:
    images = [image(1, "x/[a].jpg"), image(2, "y/[a].jpg")]
    found = store([box(2)], images).detect([photo("/data/y/[a].jpg")])[0]
    assert len(found) == 1


def test_two_photos_that_get_the_same_boxes_are_recorded(store) -> None:
    detector = store([box()])
    assert [len(r) for r in detector.detect([photo("x/a.jpg"), photo("y/a.jpg"), photo("x/a.jpg")])] == [1, 1, 1]
    assert detector.problems == [("y/a.jpg", "gets the boxes of 'a.jpg', as 'x/a.jpg' did")]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (box(image_id=9), "unknown image_id 9"),
        (box(image_id=None), "unknown image_id None"),
        (box(image_id=[1]), r"unknown image_id \[1\]"),
        (box(category_id=9), "unknown category_id 9"),
        (box(category_id="cup"), "unknown category_id 'cup'"),
        (box(iscrowd=1), "crowd"),
        (box(bbox=(1, 2, 3)), "four finite numbers"),
        (box(bbox=(1, 2, 3, NAN)), "four finite numbers"),
        (box(bbox=(1, 2, 3, "4")), "four finite numbers"),
        (box(bbox=(1, 2, 1e300, 4)), "four finite numbers"),
        (box(bbox=(1, 2, 0, 4)), "width and height above 0"),
        (box(bbox=(1, 2, 5, -4)), "width and height above 0"),
        (box(score=NAN), "finite score"),
        (box(score="high"), "finite score"),
        ({"image_id": 1, "category_id": 7}, "no 'bbox'"),
        ({"image_id": 1, "category_id": 7, "bbox": None}, "four finite numbers"),
        ("text", "expected a mapping, found str"),
        (None, "expected a mapping"),
    ],
)
def test_bad_entries_are_recorded_and_the_others_used(store, entry: Any, reason: str) -> None:
    detector = store([box(), entry, box()])
    assert len(detector.detect([photo("a.jpg")])[0]) == 2
    assert [name for name, _ in detector.problems] == ["annotations[1]"]
    assert re.search(reason, detector.problems[0][1])


def test_bad_images_and_categories_are_recorded(store) -> None:
    images = [image(1, "a.jpg"), image(1, "b.jpg"), image(None, "c.jpg"), {"id": 5}, "x", image(6, "d.jpg", width="60")]
    categories = [{"id": 7, "name": "cup"}, {"id": 7, "name": "pot"}, {"id": "8", "name": "x"}, None]
    detector = store([box(), box(6)], images, categories)
    assert [name for name, _ in detector.problems] == [
        *(f"images[{n}]" for n in (1, 2, 3, 4)),
        *(f"categories[{n}]" for n in (1, 2, 3)),
    ]
    assert detector.classes == ("cup",)
    assert [len(r) for r in detector.detect([photo("a.jpg"), photo("d.jpg")])] == [1, 1]


def test_boxes_are_clipped_and_those_outside_left_out(store) -> None:
    detector = store([box(bbox=(-5, -5, 20, 10)), box(bbox=(50, 30, 99, 99)), box(bbox=(60, 0, 5, 5))])
    found = detector.detect([photo("a.jpg")])[0]
    assert found.boxes.tolist() == [[0, 0, 15, 5], [50, 30, 60, 40]]
    assert [name for name, _ in detector.problems] == ["annotations[2]"]


def test_a_photo_of_another_size_keeps_what_fits(store) -> None:
    """As when the boxes were made before the camera's rotation was applied."""
    detector = store([box(bbox=(5, 5, 20, 20)), box(bbox=(35, 5, 20, 20)), box(bbox=(0, 0, 40.5, 40))])
    found = detector.detect([photo("a.jpg", (60, 40))])[0]
    assert found.boxes.tolist() == [[5, 5, 25, 25], [0, 0, 40, 40]]
    assert [name for name, _ in detector.problems] == ["a.jpg", "annotations[1]"]
    assert "expected a photo of 60 x 40 pixels" in detector.problems[0][1]
    assert "found 40 x 60" in detector.problems[0][1]


def test_results_take_names_from_an_instances_file(store, tmp_path: Path) -> None:
    store()
    results = [box(score=0.25), box(category_id=3, score=0.75), box(image_id=5, score=1.0)]
    (tmp_path / "results.json").write_text(json.dumps(results))
    detector = StoredBoxes(tmp_path / "results.json", images=tmp_path / "instances.json")
    found = detector.detect([photo("folder/a.jpg")])[0]
    assert found.label_names == ("pot", "cup")
    assert found.scores.tolist() == [0.75, 0.25]
    assert detector.problems == [("results[2]", "unknown image_id 5")]


def test_results_alone_go_by_numbers(tmp_path: Path) -> None:
    results = [box(139, 18, score=0.5), box("b.jpg", 2, score=0.5), box(139, 2, score=0.25), {"image_id": 3}, 4]
    (tmp_path / "results.json").write_text(json.dumps(results))
    detector = StoredBoxes(tmp_path / "results.json")
    assert detector.classes == ("2", "18")
    first, second = detector.detect([photo("139"), photo("x/b.jpg")])
    assert first.label_names == ("18", "2")
    assert second.label_names == ("2",)
    assert [name for name, _ in detector.problems] == ["results[3]", "results[4]"]


def test_empty_results_are_normal(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("[]")
    assert len(StoredBoxes(tmp_path / "results.json").detect([photo("a.jpg")])[0]) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "in JSON"),
        ("[" * 100_000, "in JSON"),
        ("\x00\xff", "in JSON"),
        ("3", "found int"),
        ('{"boxes": [], "images": []}', r"'images', 'annotations', 'categories'.*found 'boxes', 'images'"),
        ('{"images": 1, "annotations": [], "categories": []}', "without a list 'images'"),
        ('[{"image": 1, "box": 2}]', r"'image_id', 'category_id', 'bbox', found \['image', 'box'\]"),
        ("[1, 2]", "found int"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.json").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=message):
        StoredBoxes(tmp_path / "a.json")


def test_a_missing_file_and_a_needless_one_are_refused(store, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        StoredBoxes(tmp_path / "none.json")
    with pytest.raises(ValueError, match="images: expected None"):
        store(images=[]).__class__(tmp_path / "instances.json", images=tmp_path / "instances.json")


def test_masks_lie_within_the_box(store) -> None:
    left = [[10, 5, 20, 5, 20, 15, 10, 15]]  # the left half of the box
    detector = store([box(segmentation=left), box(score=0.5)], masks=True)
    masks = detector.detect([photo("a.jpg")])[0].extras["masks"]
    assert masks.shape == (2, 28, 28)
    assert masks.dtype == torch.uint8
    assert bool((masks[0, :, :14] == 1).all())
    assert bool((masks[0, :, 14:] == 0).all())
    assert bool((masks[1] == 1).all())
    assert [name for name, _ in detector.problems] == ["annotations[1]"]
    assert detector.detect([photo("b.jpg")])[0].extras["masks"].shape == (0, 28, 28)


def test_masks_of_another_size_are_not_used(store) -> None:
    detector = store([box(segmentation=[[10, 5, 20, 5, 20, 15]])], masks=True)
    masks = detector.detect([photo("a.jpg", (60, 40))])[0].extras["masks"]
    assert bool((masks == 1).all())
    assert "another size" in detector.problems[-1][1]


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data")
@pytest.mark.parametrize(
    ("file", "count"),
    [("fridge_det/instances.json", 225), ("coco_det/instances_val.json", 898), ("coco_det/instances_train.json", 929)],
)
def test_real_files_are_used_completely(file: str, count: int) -> None:
    content = json.loads((SHARED / file).read_text())
    detector = StoredBoxes(SHARED / file)
    photos = [photo(f"some/folder/{i['file_name']}", (i["height"], i["width"])) for i in content["images"]]
    assert sum(len(r) for r in detector.detect(photos)) == count
    assert detector.problems == []
