from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from objemb.coco.masks import decode_mask
from objemb.datasets.evaluation_set import read_evaluation_set
from objemb.datasets.render.products import draw_product, make_family
from objemb.datasets.scenes import Scenes, SceneSettings, instance_name
from objemb.datasets.seeds import is_alone
from objemb.evaluation.retrieval_task import make_task, pick_queries
from objemb.ops.masks import box_of

SMALL = SceneSettings(
    size=96, train_families=4, val_families=2, test_families=3, train_scenes=40, val_scenes=5, test_scenes=24
)


def test_a_scene_is_consistent() -> None:
    scenes = Scenes(SMALL, "test")
    counts = set()
    for number in range(len(scenes)):
        scene = scenes[number]
        counts.add(len(scene.boxes))
        assert scene.pixels.shape == (96, 96, 3)
        assert scene.pixels.dtype == np.uint8
        assert scene.masks.shape == (len(scene.boxes), 96, 96)
        assert scene.masks.sum(0).max(initial=0) <= 1
        for box, mask, label, name in zip(scene.boxes, scene.masks, scene.labels, scene.instances, strict=True):
            assert tuple(box) == box_of(mask)
            assert name == scenes.instances[label]
        assert (scene.visibilities >= SMALL.min_visibility).all()
    assert counts >= {1, 2, 3, 4}
    assert max(counts) <= 5


def test_objects_have_the_asked_size() -> None:
    alone = SceneSettings(
        size=200,
        objects_per_scene=(1, 1),
        object_size=(0.3, 0.4),
        rotation=0,
        perspective=0,
        occlusion=0,
        test_scenes=12,
    )
    for number in range(12):
        scene = Scenes(alone, "test")[number]
        sides = scene.boxes[:, 2:] - scene.boxes[:, :2]
        inside = (scene.boxes[:, :2] > 0).all() and (scene.boxes[:, 2:] < 200).all()
        assert sides.max() <= 82
        assert not inside or sides.max() >= 58


def test_large_objects_lie_behind_the_others() -> None:
    scenes = Scenes(SceneSettings(**{**SMALL.__dict__, "object_size": (0.1, 1.0), "test_scenes": 60}), "test")
    sizes = [(s.boxes[:, 2:] - s.boxes[:, :2]).max(1) / 96 for s in (scenes[n] for n in range(60))]
    assert min(map(min, sizes)) < 0.16
    assert max(map(max, sizes)) > 0.9
    assert sum(bool(len(s) > 1 and s.max() > 0.75 and s.min() < 0.375) for s in sizes) >= 3
    crowded = Scenes(SceneSettings(**{**SMALL.__dict__, "object_size": (1.0, 1.0), "rotation": 180}), "test")
    assert all(len(crowded[n].boxes) >= 1 for n in range(24))


def test_products_alone() -> None:
    alone = Scenes(SceneSettings(**{**SMALL.__dict__, "alone": 1.0}), "test")
    for number in range(24):
        scene = alone[number]
        assert max(scene.pixels.shape[:2]) == 96
        assert min(scene.pixels.shape[:2]) >= 32
        assert len(scene.boxes) == len(scene.instances) == 1
        assert (scene.boxes[0, 2:] - scene.boxes[0, :2]).max() > 96 / 1.25
    assert {alone[n].instances[0] for n in range(24)} == set(alone.instances)
    half = Scenes(SceneSettings(**{**SMALL.__dict__, "alone": 0.5}), "test")
    others = [n for n in range(24) if not is_alone(0.5, 0, "test", n)]
    assert 6 <= len(others) <= 18
    assert all((half[n].pixels == Scenes(SMALL, "test")[n].pixels).all() for n in others)


def test_every_instance_is_shown() -> None:
    scenes = Scenes(SMALL, "test")
    shown = {name for number in range(len(scenes)) for name in scenes[number].instances}
    assert shown == set(scenes.instances)
    assert len(shown) == 9


def test_splits_share_no_family() -> None:
    names = {split: Scenes(SMALL, split).instances for split in ("train", "val", "test")}
    families = [{n.rsplit("-", 1)[0] for n in split} for split in names.values()]
    assert not families[0] & families[1]
    assert not families[0] & families[2]
    assert not families[1] & families[2]


def test_more_training_families_leave_the_test_scenes_as_they_are() -> None:
    other = SceneSettings(**{**SMALL.__dict__, "train_families": 9, "train_scenes": 7})
    assert (Scenes(other, "test")[3].pixels == Scenes(SMALL, "test")[3].pixels).all()


def test_seed_split_and_number_make_the_scene() -> None:
    first = Scenes(SMALL, "test")[1].pixels
    assert (Scenes(SMALL, "test")[1].pixels == first).all()
    assert (Scenes(SMALL, "test")[2].pixels != first).any()
    assert (Scenes(SMALL, "val")[1].pixels != first).any()
    assert (Scenes(SceneSettings(**{**SMALL.__dict__, "seed": 1}), "test")[1].pixels != first).any()


def test_scenes_without_objects_and_extreme_settings() -> None:
    empty = Scenes(SceneSettings(size=32, objects_per_scene=(0, 0), test_scenes=3), "test")[2]
    assert empty.boxes.shape == (0, 4)
    assert empty.masks.shape == (0, 32, 32)
    plain = SceneSettings(
        **{**SMALL.__dict__, "light": 0, "noise": 0, "clutter": 0, "occlusion": 0, "rotation": 0, "variants": 1}
    )
    crowded = SceneSettings(**{**SMALL.__dict__, "objects_per_scene": (30, 30), "occlusion": 1.0, "rotation": 180})
    for settings in (plain, crowded):
        assert len(Scenes(settings, "train")[5].boxes) >= 1


def test_silhouettes_as_categories() -> None:
    scenes = Scenes(SceneSettings(**{**SMALL.__dict__, "category": "silhouette"}), "test")
    assert len(scenes.categories) == 8
    assert set(scenes[0].categories) <= set(scenes.categories)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 8}, "size: expected an integer of 32 or more"),
        ({"train_families": 0}, "train_families: expected an integer of 1 or more"),
        ({"objects_per_scene": (5, 1)}, "objects_per_scene: expected the minimum before the maximum"),
        ({"objects_per_scene": 3}, "objects_per_scene: expected two numbers, the minimum and the maximum"),
        ({"objects_per_scene": (1.5, 3)}, "objects_per_scene: expected an integer of 0 or more"),
        ({"object_size": (0.1, 2)}, "object_size: expected a number from 0.02 to 1"),
        ({"category": "silhouete"}, "did you mean 'silhouette'"),
        ({"noise": float("nan")}, "noise: expected"),
    ],
)
def test_settings_are_checked(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SceneSettings(**change)


def test_numbers_and_splits_are_checked() -> None:
    with pytest.raises(IndexError, match="expected a number from 0 to 23"):
        Scenes(SMALL, "test")[24]
    with pytest.raises(ValueError, match="split"):
        Scenes(SMALL, "tests")


def test_instance_names() -> None:
    assert [instance_name("val", 3, v) for v in (0, 25, 26, 52)] == [f"val-003-{x}" for x in ("a", "z", "aa", "ba")]


def test_written_files(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO

    result = Scenes(SMALL, "test").write(tmp_path, format="png")
    coco = COCO(result["instances"])
    assert len(coco.getImgIds()) == result["images"] == 24
    for number, image in enumerate(coco.loadImgs(coco.getImgIds())):
        scene = Scenes(SMALL, "test")[number]
        assert (np.asarray(Image.open(tmp_path / "images" / image["file_name"])) == scene.pixels).all()
        annotations = coco.loadAnns(coco.getAnnIds(image["id"]))
        assert [a["instance"] for a in annotations] == list(scene.instances)
        for annotation, box, mask in zip(annotations, scene.boxes, scene.masks, strict=True):
            x, y, w, h = annotation["bbox"]
            assert (x, y, x + w, y + h) == tuple(box)
            assert (coco.annToMask(annotation) == mask).all()
            assert (decode_mask(annotation["segmentation"], mask.shape) == mask).all()
            assert annotation["area"] == mask.sum()


def test_written_retrieval_set_can_be_evaluated(tmp_path: Path) -> None:
    result = Scenes(SMALL, "test").write(tmp_path)
    data = read_evaluation_set(result["retrieval"])
    task = make_task(data, "object")
    assert len(task.queries) == sum(result["queries"].values())
    assert result["queries"]["in photo"] > 5
    assert result["queries"]["picture"] == 9
    assert not task.queries_without_positives()
    assert not data.missing_photos()
    assert len(data.objects) == result["annotations"]
    asked = {kind: pick_queries(task, [f"kind={kind}"]).queries for kind in ("in photo", "picture")}
    assert {q.file for q in asked["in photo"]} <= {f"images/test_{n:06d}.jpg" for n in range(0, 24, 5)}
    assert [q.file for q in asked["picture"]] == [f"pictures/test_{n:06d}.jpg" for n in range(9)]
    assert [q.instances[0] for q in asked["picture"]] == sorted(Scenes(SMALL, "test").instances)
    assert all(q.box is None for q in asked["picture"])
    assert "retrieval" not in Scenes(SMALL, "train").write(tmp_path)


def test_the_picture_in_a_catalogue_is_the_product_on_white() -> None:
    scenes = Scenes(SMALL, "test")
    for label, name in enumerate(scenes.instances):
        (picture,) = scenes.pictures(name)
        pixels = np.asarray(picture)
        assert max(picture.size) == 96 + 2 * 5
        assert (pixels[:5] == 255).all()
        assert (pixels[:, -5:] == 255).all()
        product = draw_product(make_family(0, "test", label // 3), label % 3, 96)
        inside = np.asarray(product.getchannel("A")) == 255
        assert (pixels[5:-5, 5:-5][inside] == np.asarray(product.convert("RGB"))[inside]).all()


def test_the_same_bytes_from_any_number_of_processes(tmp_path: Path) -> None:
    advanced: list[int] = []
    Scenes(SMALL, "train").write(tmp_path / "one")
    Scenes(SMALL, "train").write(tmp_path / "two", workers=2, advance=advanced.append)
    assert sum(advanced) == 40
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 41
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_the_same_bytes_in_another_process() -> None:
    code = (
        "from objemb.datasets.scenes import Scenes, SceneSettings; import sys;"
        "sys.stdout.buffer.write(Scenes(SceneSettings(size=64), 'val')[7].pixels.tobytes())"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment).stdout
    assert other == Scenes(SceneSettings(size=64), "val")[7].pixels.tobytes()


def test_settings_survive_json(tmp_path: Path) -> None:
    result = Scenes(SMALL, "val").write(tmp_path)
    info = json.loads(Path(result["instances"]).read_text())["info"]
    assert SceneSettings(**info["settings"]) == SMALL
