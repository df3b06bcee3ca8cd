from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from tests.tiny import random_photo

TOOL = Path(__file__).parents[2] / "tools" / "factorize.py"
SMALL = ["--size", "65", "--query-size", "33", "backbone.arch=squeezenet1_1", "backbone.weights=random"]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return importlib.import_module("objemb.cli.programs.factorize")


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    files = []
    for seed in range(3):
        files.append(tmp_path / f"{seed}.png")
        Image.fromarray(random_photo(60, 80, seed=seed).pixels.transpose(1, 2, 0)).save(files[-1])
    return [str(f) for f in files]


def test_boxes_and_heat_maps(tool: ModuleType, photos: list[str], tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    report = tool.main([*photos, "-o", str(out), "--box", "10,10,50,50", "--rank", "2", *SMALL])
    assert json.loads((out / "boxes.json").read_text()) == report
    assert report["query"] == {"image": photos[0], "box": [10, 10, 50, 50]}
    assert report["concept"] in (0, 1)
    assert [p["image"] for p in report["photos"]] == photos[1:]
    for photo in report["photos"]:
        x1, y1, x2, y2 = photo["box"]
        assert 0 <= x1 < x2 <= 80
        assert 0 <= y1 < y2 <= 60
        assert 0 < photo["share"] <= 1
    with Image.open(out / "heat.png") as picture:
        assert picture.size[0] > picture.size[1] / 2
    assert tool.main([*photos, "-o", str(out), "--rank", "2", *SMALL])["query"]["box"] is None


def test_clear_errors(tool: ModuleType, photos: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside the image of 80 x 60, found"):
        tool.main([*photos, "-o", str(tmp_path), "--box", "10,10,900,50", *SMALL])
    with pytest.raises(ValueError, match=r"--model: expected a config for backbone.*random, found the model folder"):
        tool.main([*photos, "-o", str(tmp_path), "--model", str(tmp_path), *SMALL])
    random = ["detector.weights=random", "head.weights=random"]
    with pytest.raises(ValueError, match=r"--model: expected a describer with a backbone, .* found one_pass"):
        tool.main([*photos, "-o", str(tmp_path), "--model", "one_pass", *random])


def test_a_photo_that_cannot_be_read_stops_nothing(
    tool: ModuleType, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(photos[1]).write_bytes(b"broken")
    report = tool.main([*photos, "-o", str(tmp_path / "out"), "--rank", "2", *SMALL])
    assert [p["image"] for p in report["photos"]] == [photos[2]]
    assert f"skipped {photos[1]}: " in capsys.readouterr().err
    Path(photos[2]).write_bytes(b"")
    with pytest.raises(ValueError, match="expected photos to find the object in, found none of 2 readable"):
        tool.main([*photos, "-o", str(tmp_path / "out"), "--rank", "2", *SMALL])
