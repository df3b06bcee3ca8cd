from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from objemb.checks import ObjembError
from objemb.config import load_config
from objemb.datasets import benchmarks
from objemb.models import build_model
from tests.datasets.benchmarks.miniature import write_photos
from tests.datasets.cleaning.collected import write_collected
from tests.datasets.pictures import write_ingredients

TOOL = Path(__file__).parents[2] / "tools" / "prepare_data.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return importlib.import_module("objemb.cli.programs.prepare_data")


def test_scenes(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["scenes", "-o", str(tmp_path), "--splits", "train", "test", "--size", "64", "--train-scenes", "6"]
    options = ["--test-scenes", "8", "--test-families", "1", "--objects-per-scene", "1", "2", "--light", "0.2"]
    result = tool.main(command + options)
    assert json.loads(capsys.readouterr().out) == result
    assert (result["train"]["images"], result["test"]["images"]) == (6, 8)
    info = json.loads((tmp_path / "instances_test.json").read_text())["info"]
    assert info["settings"]["objects_per_scene"] == [1, 2]
    assert info["settings"]["light"] == 0.2
    assert sum(result["test"]["sizes"].values()) == result["test"]["annotations"]
    assert result["test"]["sizes"]["<9 %"] == 0
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
    assert sum(result["train"]["sizes"].values()) == result["train"]["annotations"]
    assert list(result["val"]["queries"]) == ["in photo", "picture"]


def test_sizes_by_hand(tool: ModuleType, tmp_path: Path) -> None:
    """Of a photo of 200 by 100 pixels: 18, 30, 60, 100 and 150 pixels, in width or in height."""
    sides = [(18, 1), (9, 30), (60, 2), (100, 100), (150, 3), (3, 99)]
    coco = {
        "images": [{"id": 7, "width": 200, "height": 100}],
        "annotations": [{"image_id": 7, "bbox": [10, 0, width, height]} for width, height in sides],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    assert list(tool.object_sizes(tmp_path / "coco.json").values()) == [1, 1, 1, 2, 1]
    (tmp_path / "coco.json").write_text(json.dumps({"images": [], "annotations": []}))
    assert set(tool.object_sizes(tmp_path / "coco.json").values()) == {0}


def test_every_setting_has_an_option_with_help(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("scenes", "compose"):
        with pytest.raises(SystemExit):
            tool.main([command, "--help"])
        assert "--seed SEED" in capsys.readouterr().out


def test_wrong_values_are_named(tool: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="size: expected an integer of 32 or more"):
        tool.main(["scenes", "-o", str(tmp_path), "--size", "3"])


def test_a_benchmark_is_converted_once(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_photos(tmp_path / "mine", ["cup/1", "cup/2", "tea/1"], folder=".")
    write_photos(tmp_path / "more", ["1", "2"], folder=".")
    result = tool.main(["folder", "--root", str(tmp_path / "mine"), "--distractors", str(tmp_path / "more")])
    assert json.loads(capsys.readouterr().out) == result
    file = str(tmp_path / "mine" / "folder-distractors.json")
    counts = {"images": 3, "objects": 0, "queries": 3, "distractors": 2}
    assert result == {"file": file, "name": "folder with distractors", "protocol": "instances", **counts}
    assert tool.main(["folder", "--root", str(tmp_path / "mine"), "-o", str(tmp_path / "x.json")])["images"] == 3


def test_a_benchmark_that_is_not_there(tool: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ObjembError, match="jpg/: no such folder"):
        tool.main(["oxford5k", "--root", str(tmp_path), "--queries", "full"])
    with pytest.raises(ValueError, match="queries: expected one of 'crop', 'full'"):
        tool.main(["oxford5k", "--root", str(tmp_path), "--queries", "fall"])


@pytest.mark.parametrize("name", benchmarks.names())
def test_every_benchmark_has_a_command_that_says_what_goes_where(
    tool: ModuleType, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        tool.main([name, "--help"])
    shown = capsys.readouterr().out
    assert "Expected below the folder" in shown
    assert "--root ROOT" in shown


def test_clean_with_candidates_of_a_model(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cv2")
    folder = write_collected(tmp_path)
    overrides = ["backbone.arch=squeezenet1_1", "backbone.weights=random", "extractor.size=64"]
    build_model(load_config("mean", overrides)).save(tmp_path / "model")
    command = ["clean", str(folder), "-o", str(tmp_path / "out"), "--size", "256", "--features", "300"]
    result = tool.main([*command, "--candidates", "3", "--model", str(tmp_path / "model")])
    assert json.loads(capsys.readouterr().out) == result
    assert 3 + 3 + 9 * 3 // 2 <= result["pairs"] < 3 + 3 + 9 * 8 // 2, "three partners in the class of nine photos"
    assert Path(result["list"]).is_file()
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["settings"]["candidates"] == 3
    with pytest.raises(ValueError, match=r"expected --candidates together with --model, .*, found only --candidates"):
        tool.main([*command, "--candidates", "3"])
    with pytest.raises(ValueError, match="found only --model"):
        tool.main([*command, "--model", str(tmp_path / "model")])
