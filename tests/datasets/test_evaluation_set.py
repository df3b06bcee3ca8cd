from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from objemb.datasets.evaluation_set import SetEntry, read_evaluation_set

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def write(folder: Path, **parts: Any) -> Path:
    path = folder / "set.json"
    path.write_text(json.dumps({"images": [], "queries": [], **parts}))
    return path


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_sets_of_other_editors(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path, name="Zürich")
    path.write_bytes(path.read_text().encode(encoding))
    assert read_evaluation_set(path).name == "Zürich"


def test_reads_images_objects_and_queries(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        name="cups",
        images=[
            {"file": "./a.jpg", "instance": "cup", "package": True, "tags": ["ignored"]},
            {"file": "b.jpg", "instances": ["cup", "tea", "cup"]},
            {"file": "c.jpg", "instances": []},
        ],
        objects=[{"file": "b.jpg", "instance": "tea", "box": [1, 2, 3, 4.5]}],
        queries=[
            {"file": "q.jpg", "instance": "cup", "box": None, "kind": "iconic"},
            {"file": "q.jpg", "instance": "tea"},
            {"file": "q.jpg", "instances": []},
        ],
    )
    found = read_evaluation_set(path)
    assert found.name == "cups"
    assert found.images == (
        SetEntry("a.jpg", ("cup",), None, {"package": True}),
        SetEntry("b.jpg", ("cup", "tea")),
        SetEntry("c.jpg", ()),
    )
    assert found.objects == (SetEntry("b.jpg", ("tea",), (1.0, 2.0, 3.0, 4.5)),)
    assert found.queries == (
        SetEntry("q.jpg", ("cup",), None, {"kind": "iconic"}),
        SetEntry("q.jpg", ("tea",)),
        SetEntry("q.jpg", ()),
    )
    assert found.photo("b.jpg") == tmp_path / "b.jpg"


def test_objects_and_name_may_be_missing(tmp_path: Path) -> None:
    found = read_evaluation_set(write(tmp_path))
    assert (found.name, found.images, found.objects, found.queries) == ("set", (), (), ())


def test_lists_of_what_is_relevant(tmp_path: Path) -> None:
    lists = {"easy": ["./a.jpg"], "hard": ["b.jpg"], "junk": []}
    path = write(
        tmp_path,
        protocol="revisited",
        crop="scaled",
        images=[{"file": "a.jpg", "instances": []}, {"file": "b.jpg", "instances": []}],
        queries=[{"file": "q.jpg", "box": [0, 0, 5, 5], "relevant": lists, "kind": "new"}],
    )
    found = read_evaluation_set(path)
    assert (found.protocol.name, found.crop) == ("revisited", "scaled")
    (query,) = found.queries
    assert (query.instances, query.relevant) == ((), {"easy": ("a.jpg",), "hard": ("b.jpg",), "junk": ()})
    assert query.attributes == {"kind": "new"}


def test_a_remark_is_no_name_of_a_protocol(tmp_path: Path) -> None:
    assert read_evaluation_set(write(tmp_path, protocol="relevant = same instance")).protocol.name == "instances"
    assert read_evaluation_set(write(tmp_path)).crop == "context"


def test_distractors_follow_the_images(tmp_path: Path) -> None:
    for name in ("more/x/1.jpg", "more/2.png", "more/readme.txt", "more/0.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = read_evaluation_set(write(tmp_path, distractors="more", images=[{"file": "more/2.png", "instance": "x"}]))
    assert [(e.file, e.instances) for e in found.images] == [
        ("more/2.png", ("x",)),
        ("more/0.jpg", ()),
        ("more/x/1.jpg", ()),
    ]
    assert found.distractors == 2
    assert found.missing_photos() == []


def test_missing_photos_are_listed_once(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    rows = [{"file": "a.jpg", "instance": "x"}, {"file": "gone.jpg", "instance": "x"}]
    found = read_evaluation_set(write(tmp_path, images=rows, queries=rows[1:]))
    assert found.missing_photos() == ["gone.jpg: no such photo"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"queries": "x"}, "queries: expected a list, found str"),
        ({"images": [3]}, r"images\[0\]: expected an object, found int"),
        ({"images": [{"instance": "x"}]}, r"images\[0\]: expected the key 'file' with a path, found 'instance'"),
        ({"images": [{"file": "a.jpg"}]}, r"images\[0\] \(a.jpg\): expected the key 'instance' or 'instances'"),
        (
            {"objects": [{"file": "a.jpg", "instances": ["x"], "box": [0, 0, 9, 9]}]},
            r"objects\[0\] \(a.jpg\): expected the key 'instance', found",
        ),
        (
            {"queries": [{"file": "a.jpg"}]},
            r"queries\[0\] \(a.jpg\): expected the key 'instance' or 'instances', found",
        ),
        ({"queries": [{"file": "a.jpg", "instance": 3}]}, r"non-empty strings, found \[3\]"),
        ({"queries": [{"file": "a.jpg", "instance": "x", "box": [1, 2, 3]}]}, r"\[x1, y1, x2, y2\], found \[1, 2, 3\]"),
        ({"queries": [{"file": "a.jpg", "instance": "x", "box": [5, 2, 3, 4]}]}, "x1 <= x2"),
        ({"queries": [{"file": "a.jpg", "instance": "x", "box": [0, 0, 3, float("nan")]}]}, "found .0, 0, 3, nan"),
        (
            {"queries": [{"file": "a.jpg", "instance": "x", "box": [0, 0, 31, 5], "width": 30, "height": 9}]},
            "x2 <= 30 and 0 <= y1 <= y2 <= 9",
        ),
        ({"objects": [{"file": "a.jpg", "instance": "x"}]}, r"objects\[0\] \(a.jpg\): expected the key 'box'"),
        ({"objects": [{"file": "a.jpg", "instance": "x", "box": [0, 0, 9, 9]}]}, "among the images, found 'a.jpg'"),
        ({"protocol": "revised"}, r"protocol: expected one of .*'revisited'.*, found 'revised' \(did you mean"),
        ({"protocol": 3}, "protocol: expected one of"),
        ({"distractors": "gone"}, "distractors: expected a folder, found none at 'gone'"),
        ({"protocol": "oxford", "queries": [{"file": "q", "instance": "x"}]}, "key 'relevant', as 'oxford' needs it"),
        ({"queries": [{"file": "q", "relevant": []}]}, r"queries\[0\] \(q\): expected 'relevant' as lists of images"),
        ({"queries": [{"file": "q", "relevant": {"junk": "a.jpg"}}]}, "relevant: expected a list of images as 'junk'"),
        ({"queries": [{"file": "q", "relevant": {"junk": ["z"]}}]}, "relevant: expected images of the set, found 'z'"),
        ({"queries": [{"file": "q", "relevant": {"easy": []}}]}, "grades among 'positive', 'junk', found 'easy'"),
        (
            {
                "images": [{"file": "a.jpg", "instances": []}],
                "queries": [{"file": "q", "relevant": {"positive": ["a.jpg"], "junk": ["a.jpg"]}}],
            },
            r"queries\[0\] \(q\): relevant: expected each image once, found 'a.jpg' 2 times",
        ),
        ({"images": [{"file": "a.jpg", "instance": "x"}] * 2}, r"images\[1\] \(a.jpg\): expected each entry once"),
        ({"queries": [{"file": "a.jpg", "instance": "x"}] * 2}, r"queries\[1\] \(a.jpg\): expected each entry once"),
    ],
)
def test_what_is_wrong_is_named_with_its_file_and_entry(tmp_path: Path, parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_evaluation_set(write(tmp_path, **parts))
    assert str(tmp_path / "set.json") in str(caught.value)


def test_the_size_of_a_photo_is_known_to_all_its_entries(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        images=[{"file": "a.jpg", "instances": [], "width": 30, "height": 20}],
        objects=[{"file": "a.jpg", "instance": "x", "box": [0, 0, 30, 21]}],
    )
    with pytest.raises(ValueError, match="y2 <= 20"):
        read_evaluation_set(path)


def test_all_problems_come_at_once_and_many_are_counted(tmp_path: Path) -> None:
    rows = [{"file": f"{n}.jpg"} for n in range(14)]
    with pytest.raises(ValueError, match=r"images\[0\] \(0.jpg\)(.|\n)*images\[9\](.|\n)*and 4 more") as caught:
        read_evaluation_set(write(tmp_path, images=rows))
    assert "images[10]" not in str(caught.value)


def test_files_that_are_not_sets(tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    with pytest.raises(FileNotFoundError, match=r"set\.json: expected a JSON file"):
        read_evaluation_set(path)
    for content, message in [
        (b"{", "expected JSON"),
        (b"\xff", "expected JSON"),
        (b"[]", "found list"),
        (b"[" * 10**6, "expected JSON"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_evaluation_set(path)


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize(
    ("file", "images", "objects", "queries"),
    [
        ("grocery/grocery.json", 972, 0, 243),
        ("products/products.json", 480, 0, 120),
        ("fridge_det/fridge.json", 30, 225, 45),
    ],
)
def test_reads_the_shared_sets(file: str, images: int, objects: int, queries: int) -> None:
    found = read_evaluation_set(SHARED / file)
    assert (len(found.images), len(found.objects), len(found.queries)) == (images, objects, queries)
    assert found.missing_photos() == []


def _sized(folder: Path, width: Any, height: Any, **more: Any) -> Path:
    """A set with a box of a photo that the file says is so large, and a photo of 120 x 80 pixels."""
    exif = Image.Exif()
    exif[0x0112] = more.pop("orientation", 1)
    Image.new("RGB", (120, 80)).save(folder / "a.png", exif=exif)
    row = {"file": "a.png", "instance": "cup"}
    sized = {**row, "width": width, "height": height}
    return write(
        folder, images=[sized], objects=[{**row, "box": [10, 20, 40, 30]}], queries=[{**row, "box": [0, 0, 9, 9]}]
    )


def test_boxes_come_into_the_frame_of_their_photo(tmp_path: Path) -> None:
    same, half = (read_evaluation_set(_sized(tmp_path, *size)) for size in ((120, 80), (60.0, 40.0)))
    assert same.objects[0].box == (10, 20, 40, 30)
    assert half.objects[0].box == (20, 40, 80, 60)
    assert half.queries[0].box == (0, 0, 18, 18)
    turned = read_evaluation_set(_sized(tmp_path, 120, 80, orientation=8))
    assert turned.objects[0].box == (20, 80, 30, 110)


def test_boxes_of_other_photos_are_refused(tmp_path: Path) -> None:
    path = _sized(tmp_path, 80, 80)
    with pytest.raises(ValueError, match=r"boxes of a\.png: expected a photo of 80 x 80 .* found 120 x 80") as caught:
        read_evaluation_set(path)
    assert str(caught.value).count("a.png") == 1, "once a photo"
    (tmp_path / "a.png").write_bytes(b"no picture")
    assert read_evaluation_set(path).objects[0].box == (10, 20, 40, 30), "that is told when it is described"
    (tmp_path / "a.png").unlink()
    assert read_evaluation_set(path).missing_photos() == ["a.png: no such photo"]


def test_boxes_in_shares_of_their_photo_are_refused(tmp_path: Path) -> None:
    row = {"file": "a.jpg", "instance": "cup"}
    path = write(tmp_path, images=[row], queries=[{**row, "box": [0, 0.5, 0.25, 1]}])
    with pytest.raises(
        ValueError, match=r"queries\[0\] \(a.jpg\): .* in pixels, found fractions of the photo, from 0 to 1"
    ):
        read_evaluation_set(path)
    path = write(tmp_path, images=[{**row, "width": 2, "height": 1}], queries=[{**row, "box": [0, 0, 1, 1]}])
    assert read_evaluation_set(path).queries[0].box == (0, 0, 1, 1)


@pytest.mark.parametrize("value", [10**400, float("nan"), float("inf"), True])
def test_invalid_numbers_are_reported_with_their_entry(tmp_path: Path, value: Any) -> None:
    row = {"file": "a.jpg", "instance": "cup"}
    path = write(tmp_path, images=[{**row, "width": value, "height": 2}], queries=[{**row, "box": [1, 2, 3, value]}])
    with pytest.raises(ValueError, match=r"queries\[0\] \(a\.jpg\): expected box as \[x1, y1, x2, y2\], found"):
        read_evaluation_set(path)


def test_photos_are_found_in_either_form_of_their_letters(tmp_path: Path) -> None:
    """A set written on one system, with photos that went through another."""
    composed, apart = "caf\u00e9.png", "cafe\u0301.png"
    row = {"file": composed, "instance": "cup"}
    (tmp_path / "others").mkdir()
    Image.new("RGB", (60, 40)).save(tmp_path / "others" / apart)
    image = {**row, "file": f"others/{composed}", "width": 30, "height": 20}
    query = {**row, "file": f"others/{composed}", "box": [1, 2, 3, 4]}
    found = read_evaluation_set(write(tmp_path, images=[image], queries=[query], distractors="others"))
    assert found.missing_photos() == []
    assert found.photo(f"others/{composed}") == tmp_path / "others" / apart
    assert found.queries[0].box == (2, 4, 6, 8)
    assert found.distractors == 0, "it is an image of the set"
