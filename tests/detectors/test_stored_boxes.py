from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from objemb.detectors.stored_boxes import StoredBoxes
from objemb.structures import Photo
from tests.small_data import coco_file


def minimal(folder: Path) -> dict[str, Any]:
    return {"file": coco_file(folder)}


SHARED = Path(__file__).parents[3] / "shared" / "data"
NAN = float("nan")


def photo(name: str, size: tuple[int, int] = (40, 60), orientation: int = 1, path: str | None = None) -> Photo:
    return Photo(name, torch.zeros(3, 2, 3, dtype=torch.uint8), size, path=path, orientation=orientation)


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


def test_the_content_of_the_file_says_which_boxes_they_are(tmp_path: Path) -> None:
    file = coco_file(tmp_path)
    first = StoredBoxes(file).content_hash()
    assert first == hashlib.sha256(Path(file).read_bytes()).hexdigest()
    Path(file).write_bytes(Path(file).read_bytes() + b"\n")
    assert StoredBoxes(file).content_hash() != first


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


def test_all_scores_count_by_default(store) -> None:
    found = store([box(score=s) for s in (-2.0, 0.5, -0.1)]).detect([photo("a.jpg")])[0]
    assert found.scores.tolist() == pytest.approx([0.5, -0.1, -2.0])


def test_photos_without_boxes_are_normal(store) -> None:
    detector = store(images=[image(1, "a.jpg")])
    known, unknown, again = detector.detect([photo("a.jpg"), photo("b.jpg"), photo("b.jpg")])
    assert len(known) == len(unknown) == len(again) == 0
    assert known.classes == ("pot", "cup")
    assert [p[0] for p in detector.problems] == ["b.jpg"]
    assert detector.detect([]) == []


def test_photos_are_found_by_name_then_last_part_then_id(store) -> None:
    images = [image(1, "x/a.jpg"), image(2, "y/a.jpg"), image(3, "b.jpg"), image("4.jpg", "c.jpg"), image(5, "4.jpg")]

    def stored() -> StoredBoxes:
        return store([box(i["id"], bbox=(n, 0, 1, 1)) for n, i in enumerate(images)], images)

    def first(name: str) -> float:
        detector = stored()
        return float(detector.detect([photo(name)])[0].boxes[0, 0])

    assert first("4.jpg") == 4  # the name comes before the id
    assert first("2") == 1
    assert first("y/a.jpg") == 1
    assert first("/data/x/a.jpg") == 0  # folders decide
    assert first("/data/b.jpg") == 2
    detector = stored()
    assert [len(r) for r in detector.detect([photo("a.jpg"), photo("z/a.jpg"), photo("7")])] == [0, 0, 0]
    found = dict(detector.problems)
    assert "could be the photo, found 'x/a.jpg' (id 1) and 'y/a.jpg' (id 2)" in found["a.jpg"]
    assert found["z/a.jpg"].endswith("found none with its name or id; 'x/a.jpg' is in another folder")
    assert found["7"].endswith("found none with its name or id")
    assert detector.left_out == {"a.jpg"}


def test_a_file_without_names_is_found_by_its_numbers(store, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps([box(139, score=0.5), box("shelf", score=0.5)]))
    detector = StoredBoxes(tmp_path / "results.json")
    found = detector.detect([photo(name) for name in ("val/000000000139.jpg", "139.png", "shelf.jpg", "39.jpg")])
    assert [len(r) for r in found] == [1, 0, 1, 0]
    assert detector.left_out == {"139.png"}
    assert [len(r) for r in detector.detect([photo("val/000000000139.jpg")])] == [1], "it is the same photo"
    named = store([box(139)], [image(139, "cup.jpg")])
    assert len(named.detect([photo("000000000139.jpg")])[0]) == 0, "a name is a name"


def test_names_are_no_patterns(store) -> None:
    images = [image(1, "x/[a].jpg"), image(2, "y/[a].jpg")]
    found = store([box(2)], images).detect([photo("/data/y/[a].jpg")])[0]
    assert len(found) == 1


def test_boxes_of_one_image_go_to_one_photo(store) -> None:
    detector = store([box()])
    assert [len(r) for r in detector.detect([photo("x/a.jpg"), photo("y/a.jpg"), photo("x/a.jpg")])] == [1, 0, 1]
    ((entry, reason),) = detector.problems
    assert entry == "y/a.jpg"
    assert reason.endswith("are left out: expected one photo 'a.jpg', found 'x/a.jpg' before")
    assert detector.left_out == {"y/a.jpg"}
    assert detector.used == 1


def test_a_photo_may_come_again_without_its_path(store) -> None:
    """Its name is that of the one before."""
    detector = store([box()])
    again = [photo("a.jpg", path="/data/a.jpg"), photo("a.jpg"), photo("x/a.jpg"), photo("a.jpg", path="/b/a.jpg")]
    assert [len(r) for r in detector.detect(again)] == [1, 1, 0, 0]


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
    categories = [{"id": 7, "name": "cup"}, {"id": 7, "name": "pot"}, {"id": [8], "name": "x"}, None]
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


def test_boxes_turn_and_scale_with_the_photo(store) -> None:
    """Made before the camera's rotation was applied, or on a smaller copy: the file says 60 x 40 pixels."""
    detector = store([box(bbox=(10, 5, 20, 10))])
    (turned,) = detector.detect([photo("a.jpg", (60, 40), 6)])
    assert turned.boxes.tolist() == [[25, 10, 35, 30]]
    (scaled,) = detector.detect([photo("a.jpg", (400, 600))])
    assert scaled.boxes.tolist() == [[100, 50, 300, 150]]
    assert detector.problems == []


@pytest.mark.parametrize(("size", "found"), [((60, 40), "40 x 60"), ((40, 70), "70 x 40")])
def test_boxes_of_another_photo_are_left_out(store, size: tuple[int, int], found: str) -> None:
    """A file turned without EXIF, a crop: those that happen to fit would lie anywhere."""
    detector = store([box(bbox=(5, 5, 20, 20))], masks=True)
    (regions,) = detector.detect([photo("a.jpg", size)])
    assert len(regions) == 0
    assert regions.extras["masks"].shape == (0, 28, 28)
    assert detector.left_out == {"a.jpg"}
    ((entry, reason),) = detector.problems
    assert entry == "a.jpg"
    assert reason.endswith(f"left out: expected a photo of 60 x 40 pixels, rotated or scaled, found {found}")
    with pytest.raises(ValueError, match=r"none among its 1 that can be used; the last problem is a\.jpg"):
        detector.expect_used()


def test_a_photo_without_boxes_may_have_any_size(store) -> None:
    detector = store([])
    assert len(detector.detect([photo("a.jpg", (7, 99))])[0]) == 0
    assert detector.problems == []
    detector.expect_used()


@pytest.mark.parametrize("more", [{"width": None, "height": None}, {"width": 0, "height": 40}])
def test_boxes_of_an_unknown_frame_are_used_where_they_lie_in_the_photo(store, more: dict[str, Any]) -> None:
    images = [image(1, "a.jpg", **more), image(2, "b.jpg", **more)]
    detector = store([box(bbox=(-9, 5, 71, 10)), box(2, bbox=(0, 0, 5, 5)), box(2, bbox=(40, 5, 31, 10))], images)
    slightly, far = detector.detect([photo("a.jpg"), photo("b.jpg")])
    assert slightly.boxes.tolist() == [[0, 5, 60, 15]]
    assert len(far) == 0
    assert detector.left_out == {"b.jpg"}
    assert "inside 60 x 40 pixels, found some that leave the photo: they are corners" in detector.problems[0][1]


def test_runs_say_the_frame_where_the_file_does_not(store) -> None:
    runs = {"size": [40, 60], "counts": [40 * 60]}
    detector = store([box(segmentation=runs)], [{"id": 1, "file_name": "a.jpg"}])
    assert detector.detect([photo("a.jpg", (80, 120))])[0].boxes.tolist() == [[20, 10, 60, 30]]


def test_ids_of_photos_are_not_taken_for_ids_of_images(store, tmp_path: Path) -> None:
    """A table has ids of its own, which are other numbers than those of the file."""
    detector = store([box(1, bbox=(1, 0, 9, 9)), box(2, bbox=(2, 0, 9, 9))], [image(1, "2"), image(2, "1")])
    assert [r.boxes[0, 0].item() for r in detector.detect([photo("1"), photo("2")])] == [2, 1]
    detector = store([box(1), box(2)], [image(1, "a.jpg"), image(2, "b.jpg")])
    found = detector.detect([photo("1", path="/data/b.jpg"), photo("2", path="/data/c.jpg")])
    assert [len(r) for r in found] == [1, 0]
    ((entry, reason),) = detector.problems
    assert entry == "2"
    assert reason.endswith("; the image with this id is 'b.jpg'")
    detector = store([box(1), box(2)], [image(1, "x/a.jpg"), image(2, "y/a.jpg")])
    assert [len(r) for r in detector.detect([photo("2", path="/data/a.jpg")])] == [1], "name and id agree"
    (tmp_path / "results.json").write_text(json.dumps([box(7, score=0.5), box(139, score=0.5)]))
    detector = StoredBoxes(tmp_path / "results.json")
    assert [len(r) for r in detector.detect([photo("7", path="/data/000139.jpg")])] == [0]
    assert detector.left_out == {"7"}


def test_folders_have_to_agree(store) -> None:
    images = [image(1, "x/a.jpg"), image(2, "deep/y/b.jpg"), image(3, "c.jpg"), image(4, "/old/z/d.jpg")]
    detector = store([box(n) for n in range(1, 5)], images)

    def count(id: str, path: str | None = None) -> int:
        return len(detector.detect([photo(id, path=path)])[0])

    assert count("a.jpg", "/data/w/a.jpg") == 0
    assert count("w/a.jpg", "/data/w/a.jpg") == 0
    assert count("a.jpg", "/data/x/a.jpg") == 1
    assert count("y/b.jpg", "/data/y/b.jpg") == 1, "its source is the folder above"
    assert count("b.jpg", "/data/y/b.jpg") == 0
    assert count("any/c.jpg", "/data/any/c.jpg") == 1
    assert count("d.jpg", "/new/z/d.jpg") == 0
    assert count("z/d.jpg", "/new/z/d.jpg") == 1


def test_names_are_compared_whatever_system_wrote_them(store) -> None:
    composed, apart = "caf\u00e9/\u00fc.jpg", "cafe\u0301/u\u0308.jpg"
    images = [image(1, composed), image(2, "x\\b.jpg"), image(3, "./y/../c.jpg")]
    detector = store([box(1), box(2), box(3)], images)
    names = [apart, "x/b.jpg", "c.jpg"]
    assert [len(r) for r in detector.detect([photo(name) for name in names])] == [1, 1, 1]
    detector = store([box(1, bbox=(1, 1, 5, 5)), box(2)], [image(1, composed), image(2, apart)])
    assert detector.detect([photo(composed)])[0].boxes[0, 0] == 1, "the very name comes first"
    assert detector.problems == []


def test_ids_may_be_floats_and_texts(store) -> None:
    """As programs write them that take ids for measurements."""
    images = [image(1.0, "a.jpg"), image("2", "b.jpg"), image("3.0", "c.jpg"), image(4, "d.jpg"), image("x", "e.jpg")]
    categories = [{"id": "10", "name": "ten"}, {"id": 9.0, "name": "nine"}, {"id": "pot", "name": "pot"}]
    found = [box(1, "9"), box(2.0, 10), box(3, "pot"), box("4.0", 9), box("x", 9.0)]
    detector = store(found, images, categories)
    assert detector.classes == ("nine", "ten", "pot")
    regions = detector.detect([photo(f"{name}.jpg") for name in "abcde"])
    assert [r.label_names for r in regions] == [("nine",), ("ten",), ("pot",), ("nine",), ("nine",)]
    assert detector.problems == []


def test_sizes_may_be_floats(store) -> None:
    detector = store([box()], [image(1, "a.jpg") | {"width": 60.0, "height": "40"}])
    assert detector.detect([photo("a.jpg", (400, 600))])[0].boxes.tolist() == [[100, 50, 300, 150]]


def test_numbers_of_any_length_do_no_harm(store) -> None:
    huge = 10**400
    entries = [
        box(),
        box(bbox=(1, 2, huge, 4)),
        box(huge),
        box(1, huge),
        box(score=huge),
        box(segmentation=[[huge, 1, 2, 3, 4, 5]]),
        box(segmentation={"size": [huge, 1], "counts": [huge]}),
    ]
    images = [image(1, "a.jpg"), image(huge, "b.jpg"), image(3, "c.jpg") | {"width": huge, "height": huge}]
    detector = store(entries, images, masks=True)
    assert [len(r) for r in detector.detect([photo(f"{name}.jpg") for name in "abc"])] == [3, 0, 0]
    reported = {name.partition(" ")[0] for name, _ in detector.problems}
    assert reported == {"images[1]", *(f"annotations[{n}]" for n in range(7)), "b.jpg"}
    assert all(len(reason) < 300 for _, reason in detector.problems)


@pytest.mark.parametrize(
    ("boxes", "found"),
    [
        (
            [(0.1, 0.2, 0.3, 0.4), (0, 0, 1, 1)],
            r"fractions of the image, from 0 to 1, in 2 of 2 boxes.*\[0.1, 0.2, 0.3, 0.4\]",
        ),
        ([(30, 20, 50, 35), (5, 5, 40, 30), (10, 10, 58, 38)], r"corners x1, y1, x2, y2.*leave the image in 2 of 3"),
    ],
)
def test_files_in_other_units_are_refused(store, boxes: list[tuple[float, ...]], found: str) -> None:
    with pytest.raises(
        ValueError, match=r"instances.json: expected boxes as x, y, width, height in pixels, found " + found
    ):
        store([box(bbox=b) for b in boxes])


@pytest.mark.parametrize(
    "boxes",
    [
        [(10, 10, 50, 30)],  # one that leaves its image a little
        [(30, 20, 40, 30), (5, 2, 40, 30), (1, 1, 50, 30), (2, 2, 50, 30)],  # one of four leaves it
        [(30, 20, 40, 30), (30, 30, 5, 5)],  # that cannot be corners
        [(0.5, 0.5, 0.25, 0.25), (5, 5, 20, 20)],
    ],
)
def test_odd_boxes_do_not_make_a_file_odd(store, boxes: list[tuple[float, ...]]) -> None:
    assert len(store([box(bbox=b) for b in boxes]).detect([photo("a.jpg")])[0]) == len(boxes)


def test_a_file_may_begin_with_a_byte_order_mark(store, tmp_path: Path) -> None:
    store([box()])
    text = (tmp_path / "instances.json").read_text()
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "marked.json").write_text(text, encoding=encoding)
        assert len(StoredBoxes(tmp_path / "marked.json").detect([photo("a.jpg")])[0]) == 1


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
    assert masks.dtype == np.uint8
    assert bool((masks[0, :, :14] == 1).all())
    assert bool((masks[0, :, 14:] == 0).all())
    assert bool((masks[1] == 1).all())
    assert [name for name, _ in detector.problems] == ["annotations[1]"]
    assert detector.detect([photo("b.jpg")])[0].extras["masks"].shape == (0, 28, 28)


def test_masks_turn_with_their_boxes(store) -> None:
    left = [[10, 5, 20, 5, 20, 15, 10, 15]]  # the left half of the box: after a quarter to the right, the upper one
    runs = {"size": [40, 60], "counts": [10 * 40 + 5, *[10, 30] * 9, 10, 60 * 40 - 19 * 40 - 15]}
    detector = store([box(segmentation=left), box(segmentation=runs, score=0.5)], masks=True)
    (found,) = detector.detect([photo("a.jpg", (600, 400), 6)])
    assert found.boxes.tolist() == [[250, 100, 350, 300]] * 2
    for mask in found.extras["masks"]:
        assert bool((mask[:14] == 1).all())
        assert bool((mask[14:] == 0).all())
    assert detector.problems == []


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
