from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.evaluation.colours import write_set

TOOL = Path(__file__).parents[2] / "tools" / "evaluate.py"
SMALL = ["backbone.arch=squeezenet1_1", "extractor.size=64"]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tools_evaluate", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def set_file(tmp_path: Path) -> Path:
    return write_set(tmp_path)


def test_several_methods_give_one_table(
    tool: ModuleType, set_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, table = tmp_path / "new" / "out.json", tmp_path / "new" / "out.md"
    methods = ["mac", *SMALL, "gem,pooling.p=2.0"]
    report = tool.main([*methods, "--set", str(set_file), "-o", str(out), "--markdown", str(table)])
    assert json.loads(out.read_text()) == json.loads(json.dumps(report))
    assert table.read_text() == capsys.readouterr().out
    mac, gem = report["results"]
    assert (mac["method"], gem["method"]) == ("mac", "gem, pooling.p=2.0")
    assert gem["settings"]["describer"]["pooling"]["p"] == 2.0
    assert mac["settings"]["describer"]["pooling"]["name"] == "max"
    assert all(r["settings"]["describer"]["extractor"]["size"] == 64 for r in (mac, gem))
    assert len({mac["fingerprint"], gem["fingerprint"]}) == 2
    assert set(mac["scores"]) == {"mAP", "P@1", "P@5", "mP@5", "mP@10"}
    assert (mac["queries"], mac["skipped"], mac["storage"]["vectors_per_image"]) == (2, 0, 1.0)
    assert report["set"]["level"] == "image"
    assert report["environment"]["command"].startswith("tools/evaluate.py mac backbone.arch=squeezenet1_1")
    assert report["environment"]["versions"]["objemb"]


def test_object_level_and_picked_queries(tool: ModuleType, set_file: Path) -> None:
    command = ["hard_attention_crop", *SMALL, "--set", str(set_file), "--level", "object"]
    report = tool.main([*command, "--queries", "kind=patch"])
    assert report["set"]["database"] == 6
    assert report["results"][0]["queries"] == 1
    assert report["results"][0]["storage"]["vectors_per_image"] == 2.0
    assert tool.main([*command, "--all-objects-as-queries"])["results"][0]["queries"] == 6


def test_boxes_at_image_level_give_localisation(tool: ModuleType, set_file: Path, tmp_path: Path) -> None:
    images = [{"id": n, "file_name": f"{c}.png", "width": 40, "height": 20} for n, c in enumerate("abc")]
    annotations = [
        {"id": 2 * n + i, "image_id": n, "category_id": 1, "bbox": [20 * i, 0, 20, 20], "area": 400, "iscrowd": 0}
        for n in range(3)
        for i in range(2)
    ]
    boxes = tmp_path / "boxes.json"
    coco = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "patch"}]}
    boxes.write_text(json.dumps(coco))
    report = tool.main(["hard_attention_crop", *SMALL, "--set", str(set_file), "--boxes", str(boxes)])
    assert report["results"][0]["storage"]["vectors_per_image"] == 3.0
    assert report["results"][0]["localisation"]["boxes"] == 3


def test_whitening_on_the_evaluation_photos_is_warned_of(
    tool: ModuleType, set_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["hard_attention_crop", *SMALL, "--set", str(set_file), "--whiten-dim", "2"]
    report = tool.main([*command, "--whiten-on", str(set_file.parent)])
    assert report["results"][0]["dim"] == 2
    assert "fitted on photos of the evaluation set" in report["results"][0]["warnings"][0]
    assert "fitted on photos of the evaluation set" in capsys.readouterr().err


def test_a_model_folder_is_a_method(tool: ModuleType, set_file: Path, tmp_path: Path) -> None:
    from objemb.config import load_config
    from objemb.models import build_model

    model = build_model(load_config("mac", SMALL))
    model.save(tmp_path / "model")
    found = tool.main([str(tmp_path / "model"), "--set", str(set_file)])["results"][0]
    assert (found["method"], found["fingerprint"]) == ("model", model.fingerprint)
    with pytest.raises(ValueError, match=r"expected a config for aggregator\.name=sum, found a model folder"):
        tool.main([f"{tmp_path / 'model'},aggregator.name=sum", "--set", str(set_file)])
    with pytest.raises(ValueError, match=r"expected a config for aggregator\.name=sum, found model folders only"):
        tool.main([str(tmp_path / "model"), "aggregator.name=sum", "--set", str(set_file)])


def test_problems_are_told(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_set(tmp_path)
    (tmp_path / "c.png").write_bytes(b"")
    assert tool.main(["mac", *SMALL, "--set", str(path)])["results"][0]["problems"][0].startswith("c.png")
    assert "mac: c.png" in capsys.readouterr().err


def test_mistakes_end_in_one_line_and_exit_code_2(tool: ModuleType, set_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="METHOD: expected at least one"):
        tool.main(["backbone.arch=vgg16", "--set", str(set_file)])
    with pytest.raises(ValueError, match="did you mean"):
        tool.main(["mac", "backbone.arh=vgg16", "--set", str(set_file)])
    command = [sys.executable, str(TOOL), "mac", "--set", str(tmp_path / "none.json")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "none.json: expected a JSON file" in ended.stderr
    assert "Traceback" not in ended.stderr
