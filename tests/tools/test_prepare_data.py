from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from tests.datasets.pictures import write_ingredients

TOOL = Path(__file__).parents[2] / "tools" / "prepare_data.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare_data", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_scenes(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["scenes", "-o", str(tmp_path), "--splits", "train", "test", "--size", "64", "--train-scenes", "6"]
    options = ["--test-scenes", "8", "--test-families", "1", "--objects-per-scene", "1", "2", "--light", "0.2"]
    result = tool.main(command + options)
    assert json.loads(capsys.readouterr().out) == result
    assert (result["train"]["images"], result["test"]["images"]) == (6, 8)
    info = json.loads((tmp_path / "instances_test.json").read_text())["info"]
    assert info["settings"]["objects_per_scene"] == [1, 2]
    assert info["settings"]["light"] == 0.2
    assert Image.open(tmp_path / "preview.png").size[0] > 100


def test_compose(tool: ModuleType, tmp_path: Path) -> None:
    products, photos = write_ingredients(tmp_path)
    command = ["compose", "--objects", str(products), "--backgrounds", str(photos), "-o", str(tmp_path / "made")]
    options = ["--count", "5", "--val-count", "6", "--size", "64", "--seed", "3", "--held-out", "item2", "item3"]
    result = tool.main([*command, *options, "--annotate-distractors", "--blends", "hard", "blur"])
    assert result["train"]["names"] == ["item0", "item1"]
    assert result["val"]["names"] == ["item2", "item3"]
    info = json.loads((tmp_path / "made" / "instances_val.json").read_text())["info"]
    assert info["settings"]["blends"] == ["hard", "blur"]
    assert info["settings"]["annotate_distractors"] is True


def test_every_setting_has_an_option_with_help(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("scenes", "compose"):
        with pytest.raises(SystemExit):
            tool.main([command, "--help"])
        assert "--seed SEED" in capsys.readouterr().out


def test_wrong_values_are_named(tool: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="size: expected a whole number from 32"):
        tool.main(["scenes", "-o", str(tmp_path), "--size", "3"])
