from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from objemb.datasets.compose import ComposeSettings, Compositions, compose
from objemb.datasets.ingredients import Picture
from objemb.datasets.masks import box_of, decode_mask
from objemb.evaluation.protocol import read_evaluation_set
from objemb.evaluation.task import make_task
from tests.datasets.pictures import write_ingredients

SMALL = ComposeSettings(size=96, count=12, val_count=20, val_share=0.5, object_size=(0.2, 0.4))


def pictures(folder: Path, **options: int) -> tuple[list[Picture], list[Picture]]:
    products, photos = write_ingredients(folder, **options)
    found = [Picture(p.name, str(p), p.parent.name) for p in sorted(products.rglob("*.png"))]
    return found, [Picture(p.name, str(p)) for p in sorted(photos.iterdir())]


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
        cut="none",
        distractors_per_scene=(0, 0),
        shadows=0,
        light=0,
        colour=0,
        noise=0,
        blends=("hard",),
    )
    made = Compositions(
        still, "train", [Picture("g", str(tmp_path / "green.png"), "g")], [Picture("p", str(tmp_path / "grey.png"))]
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
    assert box_of(decode_mask(first["segmentation"])) == (x, y, x + w, y + h)
    assert ComposeSettings(**coco["info"]["settings"]) == SMALL


def test_the_retrieval_set_is_of_held_out_products_with_queries_apart(tmp_path: Path) -> None:
    products, photos = write_ingredients(tmp_path)
    result = compose([products], [photos], tmp_path / "made", SMALL)
    data = read_evaluation_set(result["val"]["retrieval"])
    assert len(data.images) == 16
    assert not {i.file for i in data.images} & {q.file for q in data.queries}
    task = make_task(data, "object")
    assert len(task.queries) == result["val"]["queries"] > 0
    assert not task.queries_without_positives()
    assert not data.missing_photos()


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
