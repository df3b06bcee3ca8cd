from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from objemb.coco.instances import CocoInstances
from objemb.datasets.cleaning import CleaningSettings, GlobalDescriptor, clean, store
from objemb.datasets.cleaning.store import FeatureStore, StoredPhoto
from objemb.images import UnreadableImageError
from objemb.ops.boxes import iou
from objemb.training.data.coco import CocoExamples
from objemb.training.data.folder import FolderExamples
from tests.datasets.cleaning.collected import SIDE, TOWER, write_collected

pytest.importorskip("cv2")

SETTINGS = CleaningSettings(size=256, features=300)


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collected(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def cleaned(collected: Path) -> tuple[Path, dict[str, object]]:
    folder = collected.parent / "cleaned"
    return folder, clean([collected], folder, SETTINGS)


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def kept(folder: Path) -> dict[str, str]:
    """Instances of the kept photos by class and name."""
    return {"/".join(Path(row["path"]).parts[-2:]): row["instance"] for row in rows(folder / "clean.csv")}


def test_the_photos_of_the_largest_group_are_kept(cleaned: tuple[Path, dict[str, object]]) -> None:
    folder, report = cleaned
    tower = {f"tower/{name}.png": "tower" for name in TOWER}
    assert kept(folder) == {"gate/0.png": "gate", "gate/1.png": "gate", **tower}
    expected = {"classes": 3, "photos": 15, "kept": 6, "instances": 2, "unreadable": 1, "classes_without_photos": 1}
    assert {key: report[key] for key in expected} == expected
    assert report["pairs"] == 9 * 8 // 2 + 3 + 3


def test_every_other_photo_is_reported_with_the_reason(cleaned: tuple[Path, dict[str, object]]) -> None:
    reasons = {Path(row["path"]).name: row["reason"] for row in rows(cleaned[0] / "dropped.csv")}
    assert len(reasons) == 10
    assert reasons["inside0.png"] == "in a group of 3 photos that is not kept"
    assert "not an image" in reasons["broken.jpg"] or "cannot" in reasons["broken.jpg"]
    assert reasons["other0.png"] == "no photo has enough matches with it"
    assert {row["class"] for row in rows(cleaned[0] / "dropped.csv")} == {"tower", "gate", "noise", ""}


def test_boxes_are_those_of_the_object(cleaned: tuple[Path, dict[str, object]]) -> None:
    coco = json.loads((cleaned[0] / "boxes.json").read_text())
    names = {image["id"]: Path(image["file_name"]) for image in coco["images"]}
    boxes = {names[a["image_id"]]: a["bbox"] for a in coco["annotations"] if a["instance"] == "tower"}
    assert len(boxes) == 4
    for path, (x, y, width, height) in boxes.items():
        left, top = TOWER[path.stem]
        found, truth = [[x, y, x + width, y + height]], [[left, top, left + SIDE, top + SIDE]]
        # features whose window has other background do not match, so that a small object loses its margin
        assert float(iou(torch.tensor(found), torch.tensor(truth))[0, 0]) > 0.55
    assert CocoInstances(cleaned[0] / "boxes.json").problems == []


def test_the_sources_of_training_read_what_is_written(cleaned: tuple[Path, dict[str, object]]) -> None:
    whole = FolderExamples(sources=str(cleaned[0] / "clean.csv"))
    assert (len(whole), whole.instances) == (6, ("gate", "tower"))
    boxed = CocoExamples(file=cleaned[0] / "boxes.json")
    assert (len(boxed), boxed.box_count(), boxed.instances, boxed.classes) == (6, 6, ("gate", "tower"), ("object",))
    assert boxed[0].photo.size == (144, 176)


def test_the_page_shows_classes_and_pairs_without_folders(cleaned: tuple[Path, dict[str, object]]) -> None:
    page = (cleaned[0] / "report.html").read_text()
    assert "6 of 15 photos kept, 1 unreadable" in page
    assert "<td>tower</td><td>9</td><td>4</td><td>5</td><td>4</td><td>36</td>" in page
    assert page.count("data:image/jpeg") == 4, "strongest and weakest of tower, the dropped one, and the pair of gate"
    assert str(cleaned[0].parent) not in page


def test_several_views_become_instances_of_their_own(collected: Path, tmp_path: Path) -> None:
    clean([collected], tmp_path, CleaningSettings(size=256, features=300, smallest_view=3))
    assert sorted(kept(tmp_path).values()) == ["tower"] * 4 + ["tower#2"] * 3
    assert kept(tmp_path)["tower/inside1.png"] == "tower#2"


def test_classes_are_held_out_whole(collected: Path, tmp_path: Path) -> None:
    settings = CleaningSettings(size=256, features=300, smallest_view=2, val_share=0.4, seed=1)
    clean([collected], tmp_path, settings)
    parts = {part: {row["class"]: 0 for row in rows(tmp_path / f"{part}.csv")} for part in ("train", "val")}
    assert sorted(len(classes) for classes in parts.values()) == [1, 1]
    assert set(parts["train"]) | set(parts["val"]) == {"tower", "gate"}
    both = rows(tmp_path / "train.csv") + rows(tmp_path / "val.csv")
    assert sorted(row["path"] for row in both) == sorted(row["path"] for row in rows(tmp_path / "clean.csv"))
    for part, classes in parts.items():
        boxed = CocoExamples(file=tmp_path / f"boxes_{part}.json")
        assert {name.partition("#")[0] for name in boxed.instances} == set(classes)


def test_several_processes_write_the_same_files(
    collected: Path, cleaned: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    counted: dict[str, float] = {}

    def meter(what: str, unit: str, total: float) -> object:
        counted[f"{what} {unit}"] = -total

        def advance(count: float) -> None:
            counted[f"{what} {unit}"] += count

        return advance

    folder = tmp_path / "cleaned"
    os.symlink(collected, tmp_path / "collected")
    clean([tmp_path / "collected"], folder, SETTINGS, workers=2, meters=meter)  # type: ignore[arg-type]
    for name in ("clean.csv", "boxes.json"):
        assert (folder / name).read_bytes() == (cleaned[0] / name).read_bytes()
    assert counted == {"finding features photos": 0, "matching pairs": 0}
    assert "OMP_NUM_THREADS" not in os.environ or os.environ["OMP_NUM_THREADS"] != "", "restored"


def test_the_next_call_computes_nothing_again(
    collected: Path, cleaned: tuple[Path, dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FeatureStore, "_matched", _fail)
    monkeypatch.setattr(FeatureStore, "_compute", _fail_unless_broken)
    before = (cleaned[0] / "boxes.json").read_bytes()
    assert clean([collected], cleaned[0], SETTINGS) == cleaned[1]
    assert (cleaned[0] / "boxes.json").read_bytes() == before


def _fail(*arguments: object) -> None:
    raise AssertionError("computed again")


def _fail_unless_broken(store: FeatureStore, photo: StoredPhoto) -> None:
    assert photo.path.endswith("broken.jpg")
    raise UnreadableImageError("no photo")


def test_a_job_that_was_killed_continues(collected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed within the second class: the first one is not matched again."""
    calls: list[int] = []
    matched = FeatureStore._matched

    def counting(self: FeatureStore, pairs: list[tuple[StoredPhoto, StoredPhoto]]) -> object:
        calls.append(len(pairs))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return matched(self, pairs)

    monkeypatch.setattr(FeatureStore, "_matched", counting)
    with pytest.raises(KeyboardInterrupt):
        clean([collected], tmp_path, SETTINGS)
    assert not (tmp_path / "clean.csv").exists()
    clean([collected], tmp_path, SETTINGS)
    assert calls == [3, 3, 3, 36], "gate, noise (killed), noise, tower"
    assert len(kept(tmp_path)) == 6


def test_damaged_files_of_the_store_are_computed_again(collected: Path, tmp_path: Path) -> None:
    clean([collected], tmp_path, SETTINGS)
    before = (tmp_path / "boxes.json").read_bytes()
    for number, file in enumerate(sorted((tmp_path / "work").rglob("*.npz"))):
        file.write_bytes([b"", b"no zip", file.read_bytes()[:100]][number % 3])
    clean([collected], tmp_path, SETTINGS)
    assert (tmp_path / "boxes.json").read_bytes() == before


def test_a_photo_that_changed_is_matched_again(tmp_path: Path) -> None:
    folder = write_collected(tmp_path)
    clean([folder], tmp_path / "out", SETTINGS)
    Image.open(folder / "gate" / "other.png").save(folder / "gate" / "1.png")
    clean([folder], tmp_path / "out", SETTINGS)
    assert "gate/0.png" not in kept(tmp_path / "out"), "now the two others are the same photo"
    assert kept(tmp_path / "out")["gate/other.png"] == "gate"


def test_candidates_of_a_descriptor_are_the_pairs_that_are_matched(collected: Path, tmp_path: Path) -> None:
    asked: list[int] = []

    def describe(paths: object) -> dict[str, np.ndarray]:
        """The vectors of the photos with one object are alike; photos of other things are not described."""
        known = [path for path in paths if "other" not in path]  # type: ignore[attr-defined]
        asked.append(len(known))
        angles = {path: 0.1 * number + 2 * ("inside" in path) for number, path in enumerate(known)}
        return {path: np.array([np.cos(a), np.sin(a)], np.float32) for path, a in angles.items()}

    settings = CleaningSettings(size=256, features=300, candidates=2)
    descriptor = GlobalDescriptor("angles", describe)
    report = clean([collected], tmp_path, settings, descriptor=descriptor)
    assert asked == [7], "classes of three photos are matched as a whole"
    assert report["pairs"] == 3 + 3 + (5 + 3)
    assert sorted(kept(tmp_path).values()) == ["gate"] * 2 + ["tower"] * 4
    clean([collected], tmp_path, settings, descriptor=descriptor)
    assert asked == [7], "vectors are kept"
    with pytest.raises(ValueError, match="candidates: expected a model that finds the 2 most similar photos, found"):
        clean([collected], tmp_path, settings)


def test_classes_of_a_table(collected: Path, tmp_path: Path) -> None:
    names = [f"tower/{name}.png" for name in TOWER] + ["tower/gone.png"]
    table = "path,instance\n" + "".join(f"{collected / name},a tower\n" for name in names)
    (tmp_path / "photos.csv").write_text(table)
    report = clean([tmp_path / "photos.csv"], tmp_path / "out", SETTINGS)
    assert (report["photos"], report["kept"], report["unreadable"]) == (4, 4, 1)
    assert set(kept(tmp_path / "out").values()) == {"a tower"}


def test_photos_without_detail_and_of_one_pixel(tmp_path: Path) -> None:
    folder = tmp_path / "c" / "flat"
    folder.mkdir(parents=True)
    for number, size in enumerate([(1, 1), (1, 300), (40, 40)]):
        Image.new("RGB", size, (9, 9, 9)).save(folder / f"{number}.png")
    report = clean([tmp_path / "c"], tmp_path / "out", SETTINGS)
    assert (report["photos"], report["kept"]) == (3, 0)
    assert json.loads((tmp_path / "out" / "boxes.json").read_text())["images"] == []


def test_names_with_commas_line_ends_and_odd_bytes(tmp_path: Path) -> None:
    source = write_collected(tmp_path) / "gate"
    folder = tmp_path / "odd" / "a, class"
    folder.mkdir(parents=True)
    odd = [os.fsdecode(b"first\xff.png"), 'sec"ond\n.png']
    for number, name in enumerate(odd):
        (folder / name).write_bytes((source / f"{number}.png").read_bytes())
    report = clean([tmp_path / "odd"], tmp_path / "out", SETTINGS)
    assert report["kept"] == 2
    examples = FolderExamples(sources=str(tmp_path / "out" / "clean.csv"))
    assert (len(examples), examples.instances) == (2, ("a, class",))


def test_nothing_to_match(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "c" / name).mkdir(parents=True)
        Image.new("RGB", (30, 30)).save(tmp_path / "c" / name / "1.png")
    expected = "expected classes of at least two readable photos, found 2 classes with 2 readable and 0 unreadable"
    with pytest.raises(ValueError, match=expected):
        clean([tmp_path / "c"], tmp_path / "out", SETTINGS)


def test_vectors_are_kept_closely(tmp_path: Path, collected: Path) -> None:
    photo = StoredPhoto.of(collected / "tower" / "a.png", SETTINGS)
    kept_features = FeatureStore(tmp_path, SETTINGS).features(photo)
    exact = store.Sift(size=256, count=300).extract([store.read_photo(photo.path)])[0]
    np.testing.assert_array_equal(kept_features.points, exact.points)
    distances = np.linalg.norm(kept_features.vectors - exact.vectors, axis=1)
    assert float(distances.max()) < 0.02
