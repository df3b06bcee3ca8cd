from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.store import Index
from objemb.models import build_model, load_model, save_model
from objemb.search.indexing import Job, photo_path
from objemb.structures import RegionDescriptors
from tests.cli.conftest import PLACES, Run, draw, parsed
from tests.models.conftest import SETTINGS


def index_json(run: Run, photos: Path, index: Path, model: Path, *more: object, code: int = 0) -> dict[str, object]:
    return parsed(run("index", photos, "-o", index, "--model", model, "--json", *more, code=code))


def told(result: Result) -> list[str]:
    """What was said, but for the note that the tests' networks are random ones."""
    return [line for line in result.stderr.splitlines() if not line.startswith("note: random weights")]


def counts(report: dict[str, object]) -> dict[str, object]:
    return {k: report[k] for k in ("added", "updated", "unchanged", "pruned", "skipped") if report[k]}


def test_the_first_run_and_the_second(run: Run, photos: Path, model: Path, tmp_path: Path) -> None:
    boxes = ("--boxes", tmp_path / "boxes.json")
    first = index_json(run, photos, tmp_path / "index", model, *boxes)
    assert counts(first) == {"added": 6}
    assert (first["images"], first["regions"], first["errors"]) == (6, 12, None)
    assert (first["boxes_used"], first["box_problems"]) == (6, 0)
    assert set(first) == {
        *("index", "added", "updated", "unchanged", "pruned", "skipped", "images", "regions"),
        *("boxes_used", "box_problems", "seconds", "errors"),
    }
    assert counts(index_json(run, photos, tmp_path / "index", model, *boxes)) == {"unchanged": 6}


def test_new_and_changed_photos_are_found(run: Run, photos: Path, model: Path, index: Path, tmp_path: Path) -> None:
    draw(photos / "2.png", 2, seed=7)
    draw(photos / "9.png", 0, seed=8)
    report = index_json(run, photos, index, model, "--boxes", tmp_path / "boxes.json")
    assert counts(report) == {"added": 1, "updated": 1, "unchanged": 5}
    assert report["images"] == 7


def test_other_boxes_describe_the_photos_anew(run: Run, photos: Path, model: Path, index: Path, tmp_path: Path) -> None:
    report = index_json(run, photos, index, model, "--boxes", tmp_path / "boxes.json", "--max-regions", 1)
    assert counts(report) == {"updated": 6}
    assert counts(index_json(run, photos, index, model)) == {"updated": 6}
    assert Index.open(index).info()["regions"] == 6


def test_having_no_images_at_all_is_an_error(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = run("index", tmp_path / "empty", "-o", tmp_path / "index", "--model", model)
    assert f"no images were found in {tmp_path / 'empty'}" in result.stderr


def test_no_boxes_at_all(run: Run, photos: Path, model: Path, tmp_path: Path) -> None:
    more = ("--boxes", tmp_path / "boxes.json", "--max-regions", 0)
    assert index_json(run, photos, tmp_path / "index", model, *more)["regions"] == 6


def test_too_many_pixels(run: Run, photos: Path, model: Path, tmp_path: Path) -> None:
    report = index_json(run, photos, tmp_path / "index", model, "--max-pixels", 11_999, code=3)
    assert counts(report) == {"skipped": 6}


def test_masks_of_the_boxes_are_used_where_the_model_attends_to_masks(run: Run, photos: Path, tmp_path: Path) -> None:
    coco = json.loads((tmp_path / "boxes.json").read_text())
    for annotation in coco["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x, y + h]]
    (tmp_path / "masks.json").write_text(json.dumps(coco))
    vectors = []
    for masks in (True, False):
        settings = json.loads(json.dumps(SETTINGS))
        settings["describer"]["extractor"]["masks"] = masks
        save_model(build_model(settings), tmp_path / f"model{masks}")
        index = tmp_path / f"index{masks}"
        index_json(run, photos, index, tmp_path / f"model{masks}", "--boxes", tmp_path / "masks.json")
        vectors.append(Index.open(index).get("0.png").vectors)
    assert np.array_equal(vectors[0][0], vectors[1][0]), "the whole image has no mask"
    assert not np.allclose(vectors[0][1], vectors[1][1])


@pytest.mark.parametrize("device", ["cuda:99", "warp"])
def test_a_device_that_is_not_there(run: Run, photos: Path, model: Path, tmp_path: Path, device: str) -> None:
    result = run("index", photos, "-o", tmp_path / "index", "--model", model, "--device", device, code=2)
    assert f"found '{device}'" in result.stderr
    assert not (tmp_path / "index").exists()


def test_vanished_photos_stay_until_they_are_pruned(run: Run, photos: Path, model: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    index_json(run, photos, index, model)
    (photos / "3.png").unlink()
    assert index_json(run, photos, index, model)["images"] == 6
    assert counts(index_json(run, photos, index, model, "--prune")) == {"unchanged": 5, "pruned": 1}
    assert "3.png" not in Index.open(index).stamps()


def test_what_a_list_names_is_pruned_when_it_has_vanished(run: Run, photos: Path, model: Path, tmp_path: Path) -> None:
    table, index = tmp_path / "table.csv", tmp_path / "index"
    table.write_text("path,id\nphotos/0.png,a\nphotos/1.png,b\nphotos/2.png,c\n")
    index_json(run, table, index, model)
    (photos / "1.png").unlink()
    (photos / "2.png").write_bytes(b"broken")
    assert counts(index_json(run, table, index, model, "--prune", code=3)) == {
        "unchanged": 1,
        "pruned": 1,
        "skipped": 2,
    }
    assert set(Index.open(index).stamps()) == {"a", "c"}, "a photo that is broken now is still there"


def test_pruning_spares_photos_of_another_folder(run: Run, photos: Path, model: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    index_json(run, photos, index, model)
    (tmp_path / "more").mkdir()
    draw(tmp_path / "more" / "x.png", 1)
    assert counts(index_json(run, tmp_path / "more", index, model, "--prune")) == {"added": 1}
    assert len(Index.open(index)) == 7


def test_a_photo_of_the_same_name_elsewhere_does_not_replace_one(
    run: Run, photos: Path, model: Path, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    index_json(run, photos, index, model)
    (tmp_path / "more").mkdir()
    draw(tmp_path / "more" / "1.png", 2, seed=5)
    report = index_json(run, tmp_path / "more", index, model, code=3)
    assert counts(report) == {"skipped": 1}
    assert photo_path(Index.open(index).stamps()["1.png"]) == photos / "1.png"
    together = parsed(run("index", photos, tmp_path / "more", "-o", index, "--model", model, "--json"))
    assert counts(together) == {"added": 1, "unchanged": 6}
    assert "more/1.png" in Index.open(index).stamps()


def test_a_moved_folder_is_indexed_under_the_same_ids(run: Run, photos: Path, model: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    index_json(run, photos, index, model)
    shutil.move(photos, tmp_path / "elsewhere")
    assert counts(index_json(run, tmp_path / "elsewhere", index, model)) == {"updated": 6}
    assert photo_path(Index.open(index).stamps()["1.png"]) == tmp_path / "elsewhere" / "1.png"


def test_broken_photos_are_listed_and_the_exit_code_is_3(run: Run, photos: Path, model: Path, tmp_path: Path) -> None:
    (photos / "broken.png").write_bytes(b"no image")
    (photos / "cut.png").write_bytes((photos / "0.png").read_bytes()[:200])
    (photos / "folder.jpg").mkdir()
    result = run("index", photos, "-o", tmp_path / "index", "--model", model, code=3)
    listing = tmp_path / "index.skipped.jsonl"
    skipped = [json.loads(line) for line in listing.read_text().splitlines()]
    assert [s["id"] for s in skipped] == ["broken.png", "cut.png", "folder.jpg"]
    assert all(set(s) == {"id", "path", "reason"} and s["reason"] for s in skipped)
    assert "6 images (6 added, 3 skipped)" in result.stdout
    assert str(photos / "broken.png") in result.stderr
    assert str(listing) in result.stderr
    for name in ("broken.png", "cut.png"):
        (photos / name).unlink()
    (photos / "folder.jpg").rmdir()
    run("index", photos, "-o", tmp_path / "index", "--model", model)
    assert not listing.exists(), "the list of an earlier run does not stay"


def test_the_error_list_is_written_to_the_given_file(run: Run, photos: Path, model: Path, tmp_path: Path) -> None:
    (photos / "broken.png").write_bytes(b"")
    more = ("--errors", tmp_path / "deep" / "errors.jsonl")
    report = index_json(run, photos, tmp_path / "index", model, *more, code=3)
    assert report["errors"] == str(tmp_path / "deep" / "errors.jsonl")
    assert json.loads((tmp_path / "deep" / "errors.jsonl").read_text())["id"] == "broken.png"


def test_only_some_broken_photos_are_shown(run: Run, photos: Path, model: Path, tmp_path: Path) -> None:
    for number in range(25):
        (photos / f"broken{number}.png").write_bytes(b"no")
    result = run("index", photos, "-o", tmp_path / "index", "--model", model, code=3)
    assert sum(line.startswith("skipped ") for line in result.stderr.splitlines()) == 20
    assert len((tmp_path / "index.skipped.jsonl").read_text().splitlines()) == 25


def test_another_model_is_refused_with_both_fingerprints(
    run: Run, photos: Path, model: Path, rmac: Path, index: Path
) -> None:
    result = run("index", photos, "-o", index, "--model", rmac, code=4)
    assert load_model(model).fingerprint in result.stderr
    assert load_model(rmac).fingerprint in result.stderr
    assert len(told(result)) == 1


def test_a_note_when_only_whole_images_are_indexed(
    run: Run, photos: Path, model: Path, rmac: Path, tmp_path: Path
) -> None:
    assert "only whole images" in run("index", photos, "-o", tmp_path / "a", "--model", model).stderr
    assert told(run("index", photos, "-o", tmp_path / "b", "--model", rmac)) == []


def test_boxes_that_fit_no_image_are_reported(run: Run, photos: Path, model: Path, tmp_path: Path) -> None:
    coco = json.loads((tmp_path / "boxes.json").read_text())
    coco["annotations"][0]["bbox"] = [500, 500, 10, 10]
    (tmp_path / "boxes.json").write_text(json.dumps(coco))
    result = run("index", photos, "-o", tmp_path / "index", "--model", model, "--boxes", tmp_path / "boxes.json")
    assert "annotations[0]" in result.stderr
    assert f"boxes: 5 of 6 boxes of {tmp_path / 'boxes.json'} were used\n" in result.stderr
    assert Index.open(tmp_path / "index").info()["regions"] == 11


def test_boxes_of_another_frame_are_reported_with_exit_code_3(
    run: Run, photos: Path, model: Path, tmp_path: Path
) -> None:
    coco = json.loads((tmp_path / "boxes.json").read_text())
    coco["images"][0] |= {"width": 100, "height": 120}  # turned, but by nothing that the photo says
    coco["images"][1] |= {"width": 60, "height": 50}
    coco["annotations"][1]["bbox"] = [10, 20, 30, 20]
    (tmp_path / "boxes.json").write_text(json.dumps(coco))
    more = ("-o", tmp_path / "index", "--model", model, "--boxes", tmp_path / "boxes.json")
    result = run("index", photos, *more, code=3)
    assert "boxes: 0.png: the boxes of" in result.stderr
    assert "left out: expected a photo of 100 x 120 pixels, rotated or scaled, found 120 x 100" in result.stderr
    assert "were used; 1 photos have none" in result.stderr
    assert "note: 1 photos differ in size from" in result.stderr
    (line,) = map(json.loads, (tmp_path / "index.skipped.jsonl").read_text().splitlines())
    assert (line["id"], line["path"]) == ("0.png", str(tmp_path / "boxes.json"))
    assert line["reason"].endswith("found 120 x 100")
    found = {n: Index.open(tmp_path / "index").get(f"{n}.png").regions.boxes[1:].tolist() for n in range(2)}
    assert found == {0: [], 1: [[20, 40, 80, 80]]}


@pytest.mark.parametrize("changed", ["ids", "frame"])
def test_boxes_read_in_another_frame_are_used_and_reported(
    run: Run, photos: Path, model: Path, tmp_path: Path, changed: str
) -> None:
    boxes, more = tmp_path / "boxes.json", ("--model", model, "--boxes", tmp_path / "boxes.json")
    run("index", photos, "-o", tmp_path / "plain", *more)
    coco = json.loads(boxes.read_text())
    for image in coco["images"]:
        if changed == "ids":
            image["id"] = float(image["id"])
        else:
            image |= {"width": 240, "height": 200}  # twice the size of the photos
    for box in coco["annotations"]:
        box["bbox"] = box["bbox"] if changed == "ids" else [2 * v for v in box["bbox"]]
    boxes.write_text(json.dumps(coco))
    result = run("index", photos, "-o", tmp_path / "index", *more, code=3)
    assert {"ids": "written as 1.0; they were read as 1", "frame": "rotated or scaled"}[changed] in result.stderr
    for name in (image["file_name"] for image in coco["images"]):
        plain, index = (Index.open(tmp_path / folder).get(name).regions.boxes for folder in ("plain", "index"))
        assert len(index) > 1
        assert np.array_equal(index, plain)


def test_not_one_box_used_ends_in_exit_code_3(run: Run, photos: Path, model: Path, tmp_path: Path) -> None:
    coco = json.loads((tmp_path / "boxes.json").read_text())
    (tmp_path / "boxes.json").write_text(json.dumps(coco).replace(".png", ".jpg"))
    more = ("-o", tmp_path / "index", "--model", model, "--boxes", tmp_path / "boxes.json")
    result = run("index", photos, *more, code=3)
    assert "boxes: 0.png: expected an image of" in result.stderr
    assert f"boxes: 0 of 6 boxes of {tmp_path / 'boxes.json'} were used\n" in result.stderr
    run("index", photos, *more)  # nothing to do, nothing to tell
    (tmp_path / "boxes.json").write_text(json.dumps({**coco, "annotations": []}))
    assert told(run("index", photos, *more)) == [], "nothing was detected in any of them"


def test_boxes_that_are_no_pixels_are_refused(run: Run, photos: Path, model: Path, tmp_path: Path) -> None:
    coco = json.loads((tmp_path / "boxes.json").read_text())
    for annotation in coco["annotations"]:
        annotation["bbox"] = [v / 120 for v in annotation["bbox"]]
    (tmp_path / "boxes.json").write_text(json.dumps(coco))
    more = ("-o", tmp_path / "index", "--model", model, "--boxes", tmp_path / "boxes.json")
    assert "found fractions of the image, from 0 to 1, in 6 of 6 boxes" in run("index", photos, *more, code=2).stderr
    assert not (tmp_path / "index").exists()


def test_the_ids_of_a_table_are_not_those_of_its_boxes(run: Run, photos: Path, model: Path, tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text("path,id\nphotos/2.png,1\nphotos/1.png,2\n")
    index_json(run, table, tmp_path / "index", model, "--boxes", tmp_path / "boxes.json")
    found = {image: Index.open(tmp_path / "index").get(image).regions.boxes[1].tolist() for image in ("1", "2")}
    assert found == {"1": list(PLACES[2]), "2": list(PLACES[1])}


def test_rows_of_half_size(run: Run, photos: Path, model: Path, tmp_path: Path) -> None:
    index_json(run, photos, tmp_path / "index", model, "--dtype", "float16")
    assert Index.open(tmp_path / "index").info()["dtype"] == "float16"
    assert counts(index_json(run, photos, tmp_path / "index", model)) == {"unchanged": 6}
    result = run("index", photos, "-o", tmp_path / "index", "--model", model, "--dtype", "float32", code=2)
    assert "expected float16" in result.stderr


def test_metadata_of_a_table_is_stored_and_watched(run: Run, photos: Path, model: Path, tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text("path,price\nphotos/0.png,3.5\nphotos/1.png,9\n")
    index_json(run, table, tmp_path / "index", model)
    table.write_text("path,price\nphotos/0.png,3.5\nphotos/1.png,8\n")
    assert counts(index_json(run, table, tmp_path / "index", model)) == {"updated": 1, "unchanged": 1}
    prices = {i.id: i.metadata["price"] for i in Index.open(tmp_path / "index").images()}
    assert prices == {"photos/0.png": 3.5, "photos/1.png": 8.0}


@pytest.mark.parametrize("wrong", ["photos", "model", "boxes"])
def test_missing_files_are_usage_errors_and_make_nothing(
    run: Run, photos: Path, model: Path, tmp_path: Path, wrong: str
) -> None:
    nowhere = tmp_path / "nowhere"
    sources = nowhere if wrong == "photos" else photos
    used = nowhere if wrong == "model" else model
    more = ("--boxes", nowhere) if wrong == "boxes" else ()
    result = run("index", sources, "-o", tmp_path / "index", "--model", used, *more, code=2)
    assert str(nowhere) in result.stderr
    assert len(told(result)) == 1
    assert not (tmp_path / "index").exists()


def test_a_folder_with_something_else_is_left_alone(run: Run, photos: Path, model: Path) -> None:
    before = sorted(os.listdir(photos))
    run("index", photos, "-o", photos, "--model", model, code=2)
    assert sorted(os.listdir(photos)) == before


def test_an_empty_folder_makes_an_empty_index(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    report = index_json(run, tmp_path / "empty", tmp_path / "index", model)
    assert (report["images"], report["regions"]) == (0, 0)


def test_ctrl_c_keeps_what_was_described_and_the_next_run_goes_on(
    run: Run, photos: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_model(model)
    index = Index.create(tmp_path / "index", schema=UnitVectors(loaded.dim), fingerprint=loaded.fingerprint)
    done = []

    def step(count: int) -> None:
        done.append(count)
        if len(done) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Job(index=index, model=loaded, sources=[photos], batch_size=1, on_step=step).run()
    assert len(Index.open(tmp_path / "index")) == 3
    assert counts(index_json(run, photos, tmp_path / "index", model)) == {"added": 3, "unchanged": 3}
    monkeypatch.setattr(Job, "run", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    result = run("index", photos, "-o", tmp_path / "index", "--model", model, code=130)
    assert "interrupted" in result.stderr


def test_python_finds_what_the_command_indexed(photos: Path, model: Path, index: Path) -> None:
    import objemb

    loaded, opened = objemb.load(model), objemb.Index.open(index)
    query = loaded.query(photos / "4.png", [(60, 20, 110, 70)])
    assert isinstance(query, RegionDescriptors)
    best = opened.search(query, k=2)[0]
    assert best.image in {"1.png", "4.png"}, "both show the same thing"
    assert (best.box, best.label) == ((60, 20, 110, 70), "green")
    assert best.score == pytest.approx(1, abs=1e-4)


def emptied(folder: Path) -> None:
    """What a place for a drive looks like without its drive."""
    shutil.rmtree(folder)
    folder.mkdir()


def test_pruning_an_emptied_folder_has_to_be_forced(run: Run, photos: Path, model: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    index_json(run, photos, index, model)
    emptied(photos)
    refused = run("index", photos, "-o", index, "--model", model, "--prune", code=2)
    assert "--prune: not one photo was found, and 6 images would be removed; is a drive not mounted?" in refused.stderr
    assert len(Index.open(index)) == 6
    assert counts(index_json(run, photos, index, model, "--prune", "--force")) == {"pruned": 6}


def test_pruning_beside_a_drive_that_is_not_there_publishes_the_rest(
    run: Run, photos: Path, model: Path, tmp_path: Path
) -> None:
    (photos / "drive" / "2024").mkdir(parents=True)
    for n in range(2):
        draw(photos / "drive" / "2024" / f"{n}.png", n)
    index = tmp_path / "index"
    index_json(run, photos, index, model)
    emptied(photos / "drive")
    draw(photos / "new.png", 1)
    (photos / "3.png").unlink()
    refused = run("index", photos, "-o", index, "--model", model, "--prune", code=2)
    assert f"{photos / 'drive'} is empty, and 3 images would be removed" in refused.stderr
    assert set(Index.open(index).stamps()) >= {"new.png", "3.png", "drive/2024/1.png"}
    shutil.rmtree(photos / "drive")  # a folder that was deleted leaves no empty one behind
    assert counts(index_json(run, photos, index, model, "--prune")) == {"unchanged": 6, "pruned": 3}


def test_force_goes_with_prune(run: Run, photos: Path, model: Path, tmp_path: Path) -> None:
    result = run("index", photos, "-o", tmp_path / "index", "--model", model, "--force", code=2)
    assert "--force: expected together with --prune, found alone" in result.stderr
    assert not (tmp_path / "index").exists()


def test_a_second_run_leaves_the_list_of_the_first_alone(run: Run, photos: Path, model: Path, tmp_path: Path) -> None:
    (photos / "broken.png").write_bytes(b"broken")
    index, listing = tmp_path / "index", tmp_path / "index.skipped.jsonl"
    index_json(run, photos, index, model, code=3)
    before = listing.read_text()
    with Index.open(index).writer():
        refused = run("index", photos, "-o", index, "--model", model, code=2)
        assert "expected no other writer" in refused.stderr
        assert listing.read_text() == before
    (photos / "broken.png").unlink()
    index_json(run, photos, index, model)
    assert not listing.exists()


def test_the_list_beside_an_index_follows_no_planted_link(run: Run, photos: Path, model: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("all my work")
    (tmp_path / "index.skipped.jsonl").symlink_to(precious)
    (photos / "broken.png").write_bytes(b"broken")
    index_json(run, photos, tmp_path / "index", model, code=3)
    assert precious.read_text() == "all my work"
    assert "broken.png" in (tmp_path / "index.skipped.jsonl").read_text()


def test_an_index_in_the_current_folder(
    run: Run, photos: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "broken.png").write_bytes(b"broken")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert index_json(run, photos, Path(), model, code=3)["errors"] == str(tmp_path / "here.skipped.jsonl")
    assert len(Index.open(tmp_path / "here")) == 6
    (tmp_path / "here" / "below").mkdir()
    monkeypatch.chdir(tmp_path / "here" / "below")
    assert counts(index_json(run, photos, Path(".."), model, code=3)) == {"unchanged": 6, "skipped": 1}


@pytest.mark.parametrize("output", ["/", "listed"])
def test_where_no_list_can_be_nothing_is_made(run: Run, photos: Path, model: Path, tmp_path: Path, output: str) -> None:
    (tmp_path / "listed.skipped.jsonl").mkdir()
    result = run("index", photos, "-o", tmp_path / output, "--model", model, code=2)
    assert "expected a folder for the index" in result.stderr or "expected a file for the list" in result.stderr
    assert not (tmp_path / "listed").exists()


def test_a_system_without_locks_is_refused_before_the_model_is_loaded(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("objemb.index.storage.lock.os", type("Windows", (), {"name": "nt"}))
    result = run("index", photos, "-o", tmp_path / "index", "--model", tmp_path / "no model", code=2)
    assert "on Windows use WSL" in result.stderr
