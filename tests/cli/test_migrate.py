from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Run, parsed


def test_from_one_model_to_another(run: Run, index: Path, model: Path, newer: Path, photos: Path) -> None:
    old, new = (parsed(run("model", "info", folder, "--json"))["fingerprint"] for folder in (model, newer))
    done = parsed(run("migrate", index, "--model", newer, "--json"))
    assert done.pop("seconds") >= 0
    assert done == {
        "index": str(index),
        "fingerprint": new,
        "described": 6,
        "kept": 0,
        "given": 6,
        "left_out": 0,
        "images": 6,
        "regions": 12,
        "previous": str(index / "previous"),
        "errors": None,
    }
    facts = parsed(run("info", index, "--json"))
    assert (facts["fingerprint"], facts["next"], facts["previous"]["fingerprint"]) == (new, None, old)
    shown = run("info", index).stdout
    assert f"of the model {model}" in shown
    assert parsed(run("search", index, photos / "1.png", "--json"))["hits"]
    assert parsed(run("search", index / "previous", photos / "1.png", "--json"))["hits"]
    assert "intact" in run("verify", index).stdout
    assert "found that of an earlier migration" in run("migrate", index, "--model", model, code=2).stderr
    assert parsed(run("migrate", index, "--drop-old", "--json")) == {"index": str(index), "deleted": "previous"}
    assert "nothing to do" in run("migrate", index, "--drop-old").stdout
    back = run("migrate", index, "--model", model, "--drop-old")
    assert "6 images of the new model" in back.stdout
    assert not (index / "previous").exists()
    assert "the same fingerprint" in run("migrate", index, "--model", model, code=4).stderr


def test_photos_that_are_gone(run: Run, index: Path, rmac: Path, photos: Path) -> None:
    (photos / "1.png").unlink()
    result = run("migrate", index, "--model", rmac, code=3)
    assert "skipped" in result.stderr
    assert "1 photos are left out" in result.stderr
    listing = index.with_name("index.skipped.jsonl")
    assert json.loads(listing.read_text())["reason"] == "removed since it was indexed"
    assert "kept in" in result.stderr


def test_what_cannot_be_combined(run: Run, index: Path, rmac: Path) -> None:
    for arguments in ([], ["--cancel", "--drop-old"], ["--cancel", "--model", rmac], ["--drop-old", "--force"]):
        assert "expected either --model" in run("migrate", index, *arguments, code=2).stderr
    assert "is not there" in run("migrate", index, "--cancel").stdout


def test_compact_removes_what_an_interrupted_migration_left(run: Run, index: Path) -> None:
    (index / "previous").mkdir()
    (index / "previous" / "00000001.rows").write_bytes(b"linked before a kill")
    run("compact", index)
    assert not (index / "previous").exists()
