"""`objemb doctor --tune` with times that are given, so that the choice is known."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from objemb.cli.programs import tuning
from objemb.cli.programs.timing import Ratio
from objemb.cli.programs.tuning import Measured, Way, best, measure, ways_of
from objemb.models.base import EmbeddingModel
from objemb.models.exported import ExportedModel
from objemb.runtimes.openvino import OpenVino
from objemb.structures import RegionDescriptors
from tests.cli.conftest import Run, parsed
from tests.runtimes.models import write_model

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

DEFAULT = Way("onnxruntime", "fp32")


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model", detector=False)


@pytest.fixture
def detecting(tmp_path: Path) -> Path:
    """With a detector, for which OpenVINO has ``fp32`` alone."""
    return write_model(tmp_path / "detecting")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OBJEMB_TUNED", str(tmp_path / "tuned.json"))
    return tmp_path / "tuned.json"


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> dict[Way, float]:
    """Seconds that each way takes in every round; 1 where it is not among them."""
    given: dict[Way, float] = {}

    def alternate(sides: Mapping[Way, Callable[[], object]], rounds: int) -> dict[Way, list[float]]:
        for run in sides.values():
            run()
        return {way: [given.get(way, 1.0)] * rounds for way in sides}

    monkeypatch.setattr(tuning, "alternate", alternate)
    return given


def measured(way: Way, speed: float, cosine: float = 1.0, boxes: float = 1.0) -> Measured:
    return Measured(way, Ratio(str(way), speed), cosine, boxes)


def test_ways_of_an_exported_model(tmp_path: Path, exported: Path) -> None:
    precisions = OpenVino.precisions_here()
    assert "fp32" in precisions
    assert ways_of(exported)[0] == DEFAULT
    assert set(ways_of(exported)) == {DEFAULT, *(Way("openvino", p) for p in precisions)}
    halved = write_model(tmp_path / "halved", precision="fp16")
    assert ways_of(halved) == [Way("onnxruntime", "fp16"), Way("openvino", "fp16")]
    with pytest.raises(ImportError, match="--tune: expected a runtime that reads 'pt2', found none installed"):
        tuning_of_nothing(write_model(tmp_path / "other", format="pt2"))


def tuning_of_nothing(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("objemb.runtimes.base.Runtime.is_installed", classmethod(lambda cls: False))
        ways_of(folder)


def test_the_best_is_clearly_faster_and_agrees() -> None:
    default = measured(DEFAULT, 1.0)
    exact, reduced = measured(Way("openvino", "fp32"), 1.5), measured(Way("openvino", "bf16"), 2.5, 0.9993)
    assert best([default]) is default
    assert best([default, exact, reduced]) is reduced
    assert best([default, exact, replace(reduced, cosine=0.998)]) is exact
    assert best([default, exact, replace(reduced, boxes=0.9)]) is exact
    assert best([default, replace(exact, cosine=0.9993)]) is default, "single precision has to be exact"
    assert best([default, measured(Way("openvino", "fp32"), 1.04)]) is default
    assert best([default, measured(Way("openvino", "fp32"), 0.7)]) is default


def test_what_is_measured(
    photos: Path, exported: Path, seconds: dict[Way, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenVino, "precisions_here", classmethod(lambda cls: ("fp32", "fp16")))
    seconds.update({Way("openvino", "fp32"): 0.5, Way("openvino", "fp16"): 4.0})
    found = {each.way: each for each in measure(exported, [photos])}
    assert next(iter(found)) == DEFAULT
    assert found[DEFAULT].speed.value == 1
    assert found[Way("openvino", "fp32")].speed.value == 2
    assert found[Way("openvino", "fp16")].speed.value == 0.25
    assert all(each.boxes == 1 for each in found.values())
    assert found[DEFAULT].cosine == pytest.approx(1, abs=1e-6)
    assert found[Way("openvino", "fp32")].agrees


def test_other_vectors_and_boxes_are_reported(
    photos: Path, detecting: Path, seconds: dict[Way, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A way that turns vectors by an angle of known cosine, and loses one box of two."""
    rows = tuning._rows

    def turned(model: EmbeddingModel, refs: Any) -> list[RegionDescriptors]:
        found = rows(model, refs)
        if not isinstance(model, ExportedModel) or model.runtime.registry_name == "onnxruntime":
            return found
        others = []
        for each in found:
            vectors = each.vectors.copy()
            across = np.roll(vectors[0], 1) - (np.roll(vectors[0], 1) @ vectors[0]) * vectors[0]
            vectors[0] = 0.8 * vectors[0] + 0.6 * across / np.linalg.norm(across)
            others.append(replace(each, regions=each.regions[:2], vectors=vectors[:2]))
        return others

    monkeypatch.setattr(tuning, "_rows", turned)
    found = {each.way: each for each in measure(detecting, [photos])}
    assert set(found) == {DEFAULT, Way("openvino", "fp32")}
    assert found[Way("openvino", "fp32")].cosine == pytest.approx(0.8, abs=1e-5)
    assert found[Way("openvino", "fp32")].boxes == 0.5
    assert not found[Way("openvino", "fp32")].agrees


def test_a_way_that_does_not_run_is_left_out(
    photos: Path, exported: Path, seconds: dict[Way, float], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    rows = tuning._rows

    def failing(model: EmbeddingModel, refs: Any) -> list[RegionDescriptors]:
        if model.precision == "bf16":
            raise RuntimeError("no such instructions")
        return rows(model, refs)

    monkeypatch.setattr(tuning, "_rows", failing)
    assert Way("openvino", "bf16") not in [each.way for each in measure(exported, [photos])]
    assert "openvino bf16 cannot run this model: no such instructions" in caplog.text


def test_no_photo_at_all(tmp_path: Path, exported: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.jpg").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="--tune: expected photos that can be described, found none"):
        measure(exported, [tmp_path / "broken"])


def test_the_command_records_what_the_others_take(
    run: Run, photos: Path, exported: Path, file: Path, seconds: dict[Way, float], tmp_path: Path
) -> None:
    seconds[Way("openvino", "bf16")] = 0.4
    found = parsed(run("doctor", "--model", exported, "--tune", photos, "--json"))
    assert found["chosen"] == "openvino bf16"
    assert [entry["speed"] for entry in found["tuning"] if entry["precision"] == "bf16"] == [2.5]
    assert Path(found["recorded"]) == file
    shown = run("doctor", "--model", exported, "--tune", photos).stdout
    row = next(line.split() for line in shown.splitlines() if line.startswith("openvino bf16"))
    assert (row[2:6], row[7:]) == (["2.50", "2.50", "to", "2.50"], ["100%", "chosen"])
    assert f"recorded in {file}: openvino bf16 for this model" in shown
    made = run("index", photos, "-o", tmp_path / "i", "--model", exported)
    assert "note: the networks compute in bf16" in made.stderr
    assert parsed(run("info", tmp_path / "i", "--json"))["model"]["precision"] == "bf16"
    exact = run("index", photos, "-o", tmp_path / "j", "--model", exported, "--precision", "fp32")
    assert "note: the networks" not in exact.stderr
    seconds[Way("openvino", "bf16")] = 3
    assert parsed(run("doctor", "--model", exported, "--tune", photos, "--json"))["chosen"] == "onnxruntime fp32"
    assert len(json.loads(file.read_text())["choices"]) == 1
    assert "note: the networks" not in run("index", photos, "-o", tmp_path / "k", "--model", exported).stderr
    assert "--tune: expected --model" in run("doctor", "--tune", photos, code=2).stderr


def test_a_model_of_pytorch(run: Run, photos: Path, model: Path, file: Path, seconds: dict[Way, float]) -> None:
    found = parsed(run("doctor", "--model", model, "--tune", photos, "--json"))
    assert [(entry["runtime"], entry["precision"]) for entry in found["tuning"]] == [(None, "fp32"), (None, "bf16")]
    assert found["chosen"] == "PyTorch fp32"
    seconds[Way(None, "bf16")] = 0.5
    found = parsed(run("doctor", "--model", model, "--tune", photos, "--json"))
    assert found["tuning"][1]["speed"] == 2
