from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.evaluation.colours import write_set

TOOL = Path(__file__).parents[2] / "tools" / "analysis.py"
NET = "{name: narrow_resnet, width: 4, blocks: [1, 1, 1, 1]}"
DETECTOR = f"""
  detector:
    {{name: faster_rcnn, backbone: {NET}, pyramid_strides: [8, 16], channels: 8, box_width: 8, num_classes: 1,
     min_size: 32, max_size: 64, score_threshold: 0.0, max_detections: 3}}
"""


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return importlib.import_module("objemb.cli.programs.analysis")


@pytest.fixture
def configs(tmp_path: Path) -> tuple[str, str]:
    classification, detection = tmp_path / "cls.yaml", tmp_path / "det.yaml"
    classification.write_text(
        f"describer: {{name: pooled_regions, regions: {{name: detections}}, backbone: {NET}, "
        "extractor: {name: crop, size: 32}, pooling: {name: mean}}"
    )
    detection.write_text(
        "describer:\n  name: one_pass\n  min_score: 0.0\n"
        f"  head: {{name: embedding, dim: 4, width: 8, weights: random}}{DETECTOR}"
    )
    return str(classification), str(detection)


def test_from_two_configs(
    tool: ModuleType, configs: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "new" / "analysis"
    command = [*configs, "--set", str(write_set(tmp_path)), "--size", "48", "-o", str(out), "--unwhitened"]
    report = tool.main(command)
    assert json.loads((out / "analysis.json").read_text()) == json.loads(json.dumps(report))
    printed = capsys.readouterr()
    assert (out / "analysis.md").read_text() == printed.out
    assert sorted(p.name for p in out.glob("*.png")) == ["attention.png", "layers.png"]
    names = [(layer["name"], layer["stage"], layer["stride"], layer["channels"]) for layer in report["layers"]]
    assert names == [("conv4_1", 4, 16, 16), ("conv5_1", 5, 16, 32)]
    assert report["whitened"] is False
    assert report["environment"]["command"].startswith("objemb analysis ")
    assert report["networks"]["detection"]["settings"]["describer"]["name"] == "one_pass"
    assert report["problems"] == []


def test_from_model_folders_at_object_level(
    tool: ModuleType, configs: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    tool.open_model(configs[0], "cpu").save(tmp_path / "classification")
    tool.open_model(configs[1], "cpu").save(tmp_path / "detection")
    models = [str(tmp_path / "classification"), str(tmp_path / "detection")]
    where = ["--set", str(write_set(tmp_path)), "--size", "48", "-o", str(tmp_path / "out")]
    report = tool.main([*models, *where, "--level", "object", "--whiten-on", str(tmp_path / "a.png"), "--dims", "2"])
    assert report["whitened"] is True
    assert max(score["dim"] for score in report["scores"]) == 2
    assert "the whitening is fitted on 1 photos of the evaluation set" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"expected a config for backbone.width=8, found a model folder"):
        tool.main([models[0] + ",backbone.width=8", models[1], *where, "--unwhitened"])


def test_models_that_do_not_fit(tool: ModuleType, configs: tuple[str, str], tmp_path: Path) -> None:
    where = ["--set", str(write_set(tmp_path)), "-o", str(tmp_path / "out"), "--unwhitened"]
    with pytest.raises(ValueError, match=r"CLASSIFICATION: expected a describer with a backbone, .* found one_pass"):
        tool.main([configs[1], configs[1], *where])
    with pytest.raises(ValueError, match=r"DETECTION: expected a model with a detector .* found none"):
        tool.main([configs[0], configs[0], *where])


def test_errors_are_one_line(configs: tuple[str, str], tmp_path: Path) -> None:
    command = [sys.executable, str(TOOL), *configs, "--set", str(tmp_path / "none.json"), "-o", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith("error: one of the arguments --whiten-on --unwhitened is required\n")
    command.append("--unwhitened")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("objemb analysis: ")
    assert "Traceback" not in done.stderr
