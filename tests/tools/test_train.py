from __future__ import annotations

import json
from pathlib import Path

import pytest

from objemb.cli.programs.train import main
from objemb.config import read_yaml
from objemb.models import load_model

SMALL = [
    "describer.backbone.width=2",
    "describer.extractor.size=32",
    *(f"{part}.{key}" for part in ("data", "validation") for key in ("settings.size=32", "count=4", "families=2")),
    "whiten.dim=2",
    "whiten.boxes=8",
    *("run.steps=2", "run.batch=4", "run.warmup=0", "run.workers=0", "run.accelerator=cpu"),
]


def test_from_a_config_to_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    metrics = main(["classify_scenes", *SMALL, "-o", str(folder), "--quiet"])
    printed = json.loads(capsys.readouterr().out)
    assert printed == {"model": str(folder / "model"), **metrics}
    model = load_model(folder / "model")
    assert model.dim == 2
    assert model.provenance["command"][:3] == ["objemb", "train", "classify_scenes"]
    config = read_yaml(folder / "config.yaml")
    assert config["run"]["steps"] == 2
    assert config["task"]["data"]["settings"]["noise"] == 7.0, "defaults are written down too"
    assert main(["classify_scenes", *SMALL, "-o", str(folder), "--quiet"]) == metrics


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"run: unknown key 'stepz' \(did you mean 'steps'\?\)"):
        main(["classify_scenes", "run.stepz=2", "-o", str(tmp_path / "run")])
    with pytest.raises(ValueError, match=r"task.data: unknown key 'counts' \(did you mean 'count'\?\)"):
        main(["classify_scenes", "data.counts=2", "-o", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_random_weights_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["classify_scenes", *SMALL, "-o", str(tmp_path / "run")])
    assert "training starts from random weights: describer.backbone" in capsys.readouterr().err
    assert load_model(tmp_path / "run" / "model").untrained == [], "they have learned"
    with pytest.raises(ValueError, match=r"found none for describer\.backbone \(torchvision_cnn\)"):
        main(["attend", "describer.backbone.weights=null", "-o", str(tmp_path / "other")])
