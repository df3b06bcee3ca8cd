from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from objemb.cli.programs import demo
from objemb.cli.programs.demos import photos
from objemb.cli.programs.demos.answers import answers
from objemb.cli.programs.demos.checks import check
from objemb.cli.programs.demos.page import photos_page, report_page
from objemb.cli.programs.demos.steps import Step, StepFailedError, read_stamp, run_steps
from objemb.index.store import Index
from objemb.models import load_model

ROWS = ("whole", "rmac_sum", "rmac", "detector", "map_sum", "map", "crop", "student_sum", "student")


def figures(**changed: float) -> dict:
    """Of product pictures the methods find half as much as of boxes in photos, the student ``of_picture``."""
    of_picture = changed.pop("of_picture", 0.376)
    values = {**dict.fromkeys(ROWS, 0.2), "crop": 0.8, "map": 0.62, "student": 0.76, "rmac": 0.4, **changed}
    pictures = {**{key: value / 2 for key, value in values.items()}, "student": of_picture}
    row = {"iou": None, "vectors": 1.0, "ms": 3.0, "cost": None}

    def kinds(key: str) -> dict:
        found = {"in photo": values, "picture": pictures}
        return {k: {"mAP": v[key], "P@1": 0.5, "queries": 9, "share": v[key] / v["crop"]} for k, v in found.items()}

    return {
        "seed": 0,
        "machine": "<script>",
        "dim": 128,
        "rows": [{**row, "key": key, "title": key, "by_kind": kinds(key)} for key in values],
        "detection": {"AP": 0.5, "AP50": 0.9, "AP50_before": 0.91, "change": "nothing changed"},
        "counts": {
            **dict.fromkeys(("train_photos", "train_instances", "test_photos", "test_instances"), 7),
            "queries": {"in photo": 9, "picture": 5},
        },
        "steps": [{"command": "a < b", "seconds": 3.2}],
    }


def python(folder: Path, name: str, code: str, *needs: str) -> Step:
    return Step(name, f"the step {name}", ("python", "-c", code), folder / name, needs)


def test_steps_run_once_and_again_when_what_they_build_upon_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"

    def steps(first: str = "a") -> list[Step]:
        writes = f"open({str(log)!r}, 'a').write({{!r}})"
        needs = {"a": (), "b": ("a",), "c": ()}
        return [python(tmp_path, n, writes.format(first if n == "a" else n), *needs[n]) for n in needs]

    run_steps(steps(), tmp_path, 3)
    run_steps(steps(), tmp_path, 3)
    assert log.read_text() == "abc"
    run_steps(steps("A"), tmp_path, 3)
    assert log.read_text() == "abcAb"
    assert set(read_stamp(tmp_path, "a")) == {"mark", "seconds", "command"}
    assert read_stamp(tmp_path, "none") == {}
    for damage in ("", "[1]", "{"):
        (tmp_path / "done" / "c.json").write_text(damage)
        assert read_stamp(tmp_path, "c") == {}
    run_steps(steps("A"), tmp_path, 3)
    assert log.read_text() == "abcAbc", "made again"
    monkeypatch.setattr("objemb.cli.programs.demos.steps.FORM", -1)
    run_steps(steps("A"), tmp_path, 3)
    assert log.read_text() == "abcAbcAbc", "files of another form"


def test_what_a_stale_step_made_is_removed_and_what_an_interrupted_one_left_is_not(tmp_path: Path) -> None:
    made = tmp_path / "a"
    append = f"open({str(made)!r}, 'a').write({{!r}})"
    failing = python(
        tmp_path, "a", append.format("half ") + f"; raise SystemExit(open({str(made)!r}).read() == 'half ')"
    )
    with pytest.raises(StepFailedError, match="expected exit code 0, found 1"):
        run_steps([failing], tmp_path, 1)
    run_steps([failing], tmp_path, 1)
    assert made.read_text() == "half half "
    run_steps([python(tmp_path, "a", append.format("new"))], tmp_path, 1)
    assert made.read_text() == "new"


def test_a_step_that_fails_is_named_and_what_was_done_is_kept(tmp_path: Path) -> None:
    with pytest.raises(StepFailedError, match="the step b: expected exit code 0, found 3"):
        run_steps([python(tmp_path, "a", "pass"), python(tmp_path, "b", "raise SystemExit(3)")], tmp_path, 2)
    assert read_stamp(tmp_path, "a")["seconds"] is not None
    assert read_stamp(tmp_path, "b")["seconds"] is None


def test_promises_are_ratios_of_the_table() -> None:
    found = check(figures(), seconds=300)
    assert [p["value"] for p in found] == pytest.approx([2.0, 4.0, 4.0, 0.95, 0.94, 1.0, 5.0])
    assert all(p["holds"] for p in found)
    broken = check(figures(student=0.7, of_picture=0.35), seconds=601)
    assert [p["holds"] for p in broken] == [True, True, True, False, False, True, False]


def test_the_page_escapes_and_runs_nothing() -> None:
    shown = {**figures(), "checks": check(figures(), 60)}
    page = report_page(shown, [])
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert "a &lt; b" in page
    assert "9 queries by a box in a photo and 5 by the picture of a product" in page
    student = page.partition('<tr class="ours">')[2].partition("</tr>")[0]
    assert re.findall(r">([\d.]+)</td>", student) == ["76.0", "50.0", "0.95", "37.6", "50.0", "0.94", "1.0", "3"]
    assert "default-src &#x27;none&#x27;" in page or "default-src 'none'" in page
    assert "No objects were found" in photos_page("<b>", "about", [])
    assert "<b>" not in photos_page("<b>", "about", [])


def test_every_option_of_every_step_is_understood(tmp_path: Path) -> None:
    """The commands of the plan parse, and the configs that they name take the keys that they override."""
    from objemb.config import load_training_config

    steps = {step.name: step for step in demo.plan(tmp_path, 3)}
    assert list(steps) == ["scenes", "teacher", "detector", "student", "index"]
    for name in ("teacher", "detector", "student"):
        _, _, config, *rest = steps[name].command
        overrides = rest[: rest.index("-o")]
        settings = load_training_config(config, overrides)
        assert settings["run"]["seed"] == 3
        assert settings["task"]["data"]["name"] == "coco"
        assert settings["task"]["data"]["file"].endswith("instances_train.json")


def check_answers(folder: Path) -> None:
    """A box does not find its own photo; a picture has none, though a scene's file may have the same name."""
    student, index = load_model(folder / "student" / "model"), Index.open(folder / "index")
    found = answers(folder / "scenes", folder / "student" / "model", folder / "index")
    pictures = [answer for answer in found if answer.asked == "query: the picture"]
    for answer in found:
        hits = [hit.image for hit in answer.result]
        assert len(hits) == 5
        assert len(answer.right) == len(answer.hits) == 5
        assert all(hit.found for hit in answer.hits)
        if answer in pictures:
            path = folder / "scenes" / "pictures" / answer.query.name
            assert hits == [hit.image for hit in index.search(student.query(path, "whole"), k=5)]
        else:
            assert answer.query.name not in hits


def test_from_nothing_to_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("objemb.cli.programs.demos.compare.ROUNDS", 1)
    arguments = ["--small", "-o", str(tmp_path / "demo"), "--seed", "1"]
    assert demo.main(arguments) == 0
    said = capsys.readouterr().err
    assert "[1/6] draw scenes of products\n$ objemb prepare-data scenes " in said
    assert "\\x" not in said
    assert "mean nothing" in said
    assert "HOLD" not in said
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert "mean nothing" in page
    assert "one pass (the student)" in page
    found = json.loads((tmp_path / "demo" / "seed1" / "figures.json").read_text())
    assert [row["key"] for row in found["rows"]][-1] == "student_truth"
    queries = found["counts"]["queries"]
    pictures = [*(tmp_path / "demo" / "seed1" / "scenes" / "pictures").glob("test_*")]
    assert 0 < queries["picture"] == len(pictures)
    assert queries["in photo"] > 0
    for row in found["rows"]:
        teacher = "crop_truth" if row["key"].endswith("_truth") else "crop"
        for kind, of_kind in row["by_kind"].items():
            best = next(r["by_kind"][kind]["mAP"] for r in found["rows"] if r["key"] == teacher)
            assert 0 <= of_kind["mAP"] <= 1
            assert of_kind["queries"] == queries[kind]
            assert of_kind["share"] == pytest.approx(of_kind["mAP"] / best)
    assert page.count("query: the box") > 0
    assert page.count("query: the picture") == 3
    check_answers(tmp_path / "demo" / "seed1")
    before = (tmp_path / "demo" / "seed1" / "done" / "student.json").read_text()
    monkeypatch.setattr(photos, "PRETRAINED", "nowhere.yaml")  # weights that cannot be had
    own = tmp_path / "own"
    own.mkdir()
    for picture in sorted((tmp_path / "demo" / "seed1" / "scenes" / "images").glob("test_*"))[:6]:
        shutil.copy(picture, own)
    assert demo.main([*arguments, "--photos", str(own)]) == 0  # goes on where it was: at the end
    assert "Pretrained weights were not available" in (tmp_path / "demo" / "photos.html").read_text(encoding="utf-8")
    assert (tmp_path / "demo" / "seed1" / "done" / "student.json").read_text() == before
