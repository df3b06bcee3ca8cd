from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from objemb.coco.masks import decode_mask
from objemb.datasets.compose import ComposeSettings, Compositions, compose
from objemb.datasets.evaluation_set import read_evaluation_set
from objemb.datasets.ingredients import SourcePicture
from objemb.datasets.seeds import is_alone
from objemb.evaluation.retrieval_task import make_task, pick_queries
from objemb.ops.masks import box_of
from tests.datasets.pictures import noise, write_ingredients

SMALL = ComposeSettings(size=96, count=12, val_count=20, val_share=0.5, object_size=(0.2, 0.4), alone=0)


def pictures(folder: Path, **options: int) -> tuple[list[SourcePicture], list[SourcePicture]]:
    products, photos = write_ingredients(folder, **options)
    found = [SourcePicture(p.name, str(p), p.parent.name) for p in sorted(products.rglob("*.png"))]
    return found, [SourcePicture(p.name, str(p)) for p in sorted(photos.iterdir())]


def test_a_composition_is_consistent(tmp_path: Path) -> None:
    made = Compositions(SMALL, "train", *pictures(tmp_path))
    for number in range(len(made)):
        scene = made[number]
        assert scene.pixels.shape == (96, 96, 3)
        for box, mask, label, name in zip(scene.boxes, scene.masks, scene.labels, scene.instances, strict=True):
            assert tuple(box) == box_of(mask)
            assert made.instances[label] == name
    assert {n for i in range(12) for n in made[i].instances} == {"item0", "item1", "item2", "item3"}
    assert (made[3].pixels == Compositions(SMALL, "train", *pictures(tmp_path / "again"))[3].pixels).all()
    with pytest.raises(IndexError, match="0 to 11"):
        made[12]


def test_masks_are_where_the_products_are(tmp_path: Path) -> None:
    """A green product on grey photos, without light or noise: the green pixels are the mask."""
    Image.new("RGB", (60, 60), (0, 200, 0)).save(tmp_path / "green.png")
    Image.new("RGB", (100, 100), (90, 90, 90)).save(tmp_path / "grey.png")
    still = ComposeSettings(
        size=96,
        count=6,
        alone=0,
        cut="none",
        distractors_per_scene=(0, 0),
        shadows=0,
        light=0,
        colour=0,
        noise=0,
        blends=("hard",),
    )
    made = Compositions(
        still,
        "train",
        [SourcePicture("g", str(tmp_path / "green.png"), "g")],
        [SourcePicture("p", str(tmp_path / "grey.png"))],
    )
    for number in range(6):
        scene = made[number]
        green = scene.pixels[..., 1].astype(int) - scene.pixels[..., 0] > 60
        assert (green == scene.masks.any(0)).all()


def test_query_scenes_show_pictures_of_their_own(tmp_path: Path) -> None:
    made = Compositions(SMALL, "val", *pictures(tmp_path), query_every=5)
    for database, queries in made._views.values():
        assert len(queries) == 1
        assert not {p.id + p.instance for p in database} & {p.id + p.instance for p in queries}
    single = Compositions(SMALL, "val", *pictures(tmp_path / "single", views=1), query_every=5)
    assert all(database == queries for database, queries in single._views.values())


def test_objects_of_every_size_are_kept(tmp_path: Path) -> None:
    settings = SMALL.__dict__ | {"size": 192, "count": 40, "object_size": (0.04, 1.0), "max_zoom": 20}
    made = Compositions(ComposeSettings(**settings), "train", *pictures(tmp_path))
    boxes = [made[n].boxes for n in range(40)]
    shares = np.concatenate([(b[:, 2:] - b[:, :2]).max(1) / 192 for b in boxes])
    assert shares.min() < 0.06
    assert shares.max() > 0.94
    beside = [b for b in boxes if len(b) > 1 and (b[:, 2:] - b[:, :2]).max() > 0.75 * 192]
    assert sum((b[:, 2:] - b[:, :2]).max(1).min() < 0.375 * 192 for b in beside) >= 3


def test_all_objects_may_be_as_large_as_the_scene(tmp_path: Path) -> None:
    settings = SMALL.__dict__ | {
        "object_size": (1.0, 1.0),
        "max_zoom": 20,
        "rotation": 180,
        "distractors_per_scene": (0, 0),
    }
    made = Compositions(ComposeSettings(**settings), "train", *pictures(tmp_path))
    for number in range(12):
        sides = made[number].boxes[:, 2:] - made[number].boxes[:, :2]
        assert sides.max() >= 0.75 * 96


def test_a_product_alone(tmp_path: Path) -> None:
    """Photos of the aspect ratio of the pictures (30 by 50 opaque pixels), as large as a scene, with one box."""
    products, photos = pictures(tmp_path)
    settings = SMALL.__dict__ | {"alone": 1.0, "distractors_per_scene": (2, 2), "annotate_distractors": True}
    made = Compositions(ComposeSettings(**settings), "train", products, photos)
    scenes = [made[n] for n in range(12)]
    assert {n for s in scenes for n in s.instances} == set(made.instances)
    for scene in scenes:
        (height, width), (box,) = scene.pixels.shape[:2], scene.boxes
        assert height == 96
        assert 0.45 <= width / height <= 0.8
        assert tuple(box) == box_of(scene.masks[0])
        assert max(box[2] - box[0], box[3] - box[1]) / 96 > 1 / 1.25
    assert sum(bool(s.masks.all()) for s in scenes) in range(4, 12)
    small = Compositions(ComposeSettings(**(settings | {"max_zoom": 1.2})), "train", products, photos)
    assert {small[n].pixels.shape[0] for n in range(12)} == {60}


def test_another_share_of_products_alone_leaves_the_other_scenes_as_they_are(tmp_path: Path) -> None:
    products, photos = pictures(tmp_path)
    none, half = (
        Compositions(ComposeSettings(**(SMALL.__dict__ | {"alone": a})), "train", products, photos) for a in (0, 0.5)
    )
    same = [
        none[n].pixels.shape == half[n].pixels.shape and (none[n].pixels == half[n].pixels).all() for n in range(12)
    ]
    assert same == [not is_alone(0.5, 0, "train", n) for n in range(12)]
    assert 2 <= sum(same) <= 10


def test_products_alone_in_query_scenes_are_pictures_of_their_own(tmp_path: Path) -> None:
    """Five flat views of one product, without light or noise: a colour says which of them a scene shows."""
    views = []
    for number in range(5):
        Image.new("RGB", (40, 40), (50 * number, 0, 250 - 50 * number)).save(tmp_path / f"{number}.png")
        views.append(SourcePicture(f"{number}", str(tmp_path / f"{number}.png"), "g"))
    noise((90, 70), 1).save(tmp_path / "photo.jpg")
    settings = {"size": 64, "val_count": 40, "alone": 1, "light": 0, "colour": 0, "noise": 0, "shadows": 0}
    made = Compositions(
        ComposeSettings(**settings), "val", views, [SourcePicture("p", str(tmp_path / "photo.jpg"))], query_every=5
    )
    shown: tuple[set[int], set[int]] = (set(), set())
    for number in range(40):
        height, width = made[number].pixels.shape[:2]
        shown[number % 5 == 0].add(round(int(made[number].pixels[height // 2, width // 2, 0]) / 50))
    assert len(shown[1]) == 1
    assert shown[0] | shown[1] == set(range(5))
    assert not shown[0] & shown[1]


def test_distractors_are_annotated_only_when_asked(tmp_path: Path) -> None:
    products, photos = pictures(tmp_path)
    settings = SMALL.__dict__ | {"objects_per_scene": (1, 1), "distractors_per_scene": (2, 2), "min_visibility": 0.1}
    silent = Compositions(ComposeSettings(**settings), "train", products, photos)
    loud = Compositions(ComposeSettings(**(settings | {"annotate_distractors": True})), "train", products, photos)
    named = Compositions(
        ComposeSettings(**(settings | {"annotate_distractors": True})), "train", products, photos, products
    )
    assert silent.categories == ("object",)
    assert all(set(silent[n].categories) <= {"object"} for n in range(5))
    for made in (loud, named):
        categories = [c for n in range(5) for c in made[n].categories]
        assert categories.count("distractor") > categories.count("object")
        assert all(
            label == -1
            for n in range(5)
            for label, c in zip(made[n].labels, made[n].categories, strict=True)
            if c == "distractor"
        )


def test_a_whole_data_set(tmp_path: Path) -> None:
    products, photos = write_ingredients(tmp_path)
    (products / "item0" / "broken.png").write_bytes(b"no picture")
    (photos / "broken.jpg").write_bytes(b"")
    Image.new("RGB", (20, 200)).save(photos / "narrow.jpg")
    result = compose([products], [photos], tmp_path / "made", SMALL)
    assert result["train"]["images"] == 12
    assert not set(result["train"]["names"]) & set(result["val"]["names"])
    assert result["train"]["photos"] + result["val"]["photos"] == 5
    skipped = json.loads((tmp_path / "made" / "skipped.json").read_text())
    assert [s["id"] for s in skipped] == ["item0/broken.png", "broken.jpg", "narrow.jpg"]
    assert Image.open(result["preview"]).size[0] > 500
    coco = json.loads((tmp_path / "made" / "instances_train.json").read_text())
    assert {a["instance"] for a in coco["annotations"]} == set(result["train"]["names"])
    first = coco["annotations"][0]
    x, y, w, h = first["bbox"]
    assert box_of(decode_mask(first["segmentation"], tuple(first["segmentation"]["size"]))) == (x, y, x + w, y + h)
    assert ComposeSettings(**coco["info"]["settings"]) == SMALL


def test_the_retrieval_set_is_of_held_out_products_with_queries_apart(tmp_path: Path) -> None:
    products, photos = write_ingredients(tmp_path)
    result = compose([products], [photos], tmp_path / "made", SMALL)
    data = read_evaluation_set(result["val"]["retrieval"])
    assert len(data.images) == 16
    assert not {i.file for i in data.images} & {q.file for q in data.queries}
    assert not data.missing_photos()
    for level in ("image", "object"):
        task = make_task(data, level)
        assert not task.queries_without_positives()
        kinds = {kind: len(pick_queries(task, [f"kind={kind}"]).queries) for kind in ("in photo", "picture")}
        assert kinds == result["val"]["queries"]
        assert kinds["in photo"] > 0
        assert kinds["picture"] == 2  # of each of two products, whose three views are one for queries and two others
    assert all((q.box is None) == (q.attributes["kind"] == "picture") for q in data.queries)


def test_pictures_to_search_with_are_those_that_the_database_does_not_show(tmp_path: Path) -> None:
    """Five flat views of a product: a colour says which is shown. A file may be larger than a query has to be."""
    for name in "ab":
        (tmp_path / "products" / name).mkdir(parents=True)
        for number in range(10):
            size = (60, 40) if name == "a" else (1536, 768)
            picture = Image.new("RGBA", size, (25 * number, 250 - 25 * number, 99, 255))
            picture.putpixel((0, 0), (0, 0, 0, 0))
            picture.save(tmp_path / "products" / name / f"{number}.png")
    noise((90, 70), 1).save(tmp_path / "photo.jpg")
    still = {"size": 64, "count": 1, "val_count": 40, "alone": 1, "light": 0, "colour": 0, "noise": 0, "shadows": 0}
    for count, held_out in ((1, "a"), (5, "b"), (0, "b")):
        settings = ComposeSettings(**still, held_out=(held_out,), picture_queries=count)
        made = compose([tmp_path / "products"], [tmp_path / "photo.jpg"], tmp_path / f"made{count}", settings)
        data = read_evaluation_set(made["val"]["retrieval"])
        asked = [q for q in data.queries if q.attributes["kind"] == "picture"]
        assert [q.file for q in asked] == [f"pictures/val_{n:06d}.jpg" for n in range(min(count, 2))]
        images = [Image.open(data.photo(q.file)) for q in asked]
        assert {i.size for i in images} <= ({(60, 40)} if held_out == "a" else {(1024, 512)})
        assert {q.instances for q in asked} <= {(held_out,)}
        shown = {_view(Image.open(data.photo(i.file))) for i in data.images}
        assert len(shown) == 8
        assert len({_view(i) for i in images} - shown) == len(images)


def _view(image: Image.Image) -> int:
    return round(image.getpixel((image.width // 2, image.height // 2))[0] / 25)


def test_the_only_picture_of_a_product_is_searched_with_as_well(tmp_path: Path) -> None:
    products, photos = write_ingredients(tmp_path, views=1)
    result = compose([products], [photos], tmp_path / "made", SMALL)
    assert result["val"]["queries"]["picture"] == 2
    picture = np.asarray(Image.open(tmp_path / "made" / "pictures" / "val_000000.jpg")).astype(int)
    assert picture.shape == (60, 40, 3)
    assert picture[0].min() > 225  # transparency became white
    assert picture[10:50, 10:30].mean() < 225


def test_a_copy_in_another_process_makes_the_same_scenes(tmp_path: Path) -> None:
    made = Compositions(SMALL, "train", *pictures(tmp_path))
    copy = pickle.loads(pickle.dumps(made))
    assert (copy[4].pixels == made[4].pixels).all()


def test_inputs_of_no_use(tmp_path: Path) -> None:
    products, photos = write_ingredients(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"objects: expected at least one picture .* found none \(no image\)"):
        compose([tmp_path / "empty"], [photos], tmp_path / "made", SMALL)
    (tmp_path / "empty" / "a.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"backgrounds: .*a\.jpg: empty file"):
        compose([products], [tmp_path / "empty"], tmp_path / "made", SMALL)
    with pytest.raises(ValueError, match="expected pictures and photos, found 0 and 0"):
        Compositions(SMALL, "train", [], [])


def test_one_product_and_one_photo_are_enough(tmp_path: Path) -> None:
    products, photos = write_ingredients(tmp_path, products=1, views=1, photos=1)
    result = compose([products], [photos], tmp_path / "made", SMALL)
    assert "val" not in result
    assert result["train"]["images"] == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blends": ("poisson",)}, "blends: expected one of"),
        ({"blends": ()}, "blends: expected some of"),
        ({"cut": "yes"}, "cut: expected one of"),
        ({"alone": 1.5}, "alone: expected a number from 0 to 1"),
        ({"picture_queries": -1}, "picture_queries: expected an integer of 0 or more"),
        ({"max_zoom": 0}, "max_zoom: expected a number above 0"),
        ({"distractors_per_scene": (2, 1)}, "distractors_per_scene"),
        ({"val_share": 2}, "val_share"),
    ],
)
def test_settings_are_checked(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ComposeSettings(**change)


@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        ({}, (1000, 200)),
        ({"count": 30}, (30, 6)),
        ({"count": 1}, (1, 1)),
        ({"count": 0}, (0, 0)),
        ({"count": 30, "val_count": 0}, (30, 0)),
        ({"val_count": 7}, (1000, 7)),
    ],
)
def test_as_many_scenes_as_were_asked_for(settings: dict, counts: tuple[int, int]) -> None:
    assert tuple(ComposeSettings(**settings).counts.values()) == counts


def test_scenes_are_finite_and_varied(tmp_path: Path) -> None:
    made = Compositions(SMALL, "train", *pictures(tmp_path))
    means = [made[n].pixels.mean() for n in range(12)]
    assert np.std(means) > 2
