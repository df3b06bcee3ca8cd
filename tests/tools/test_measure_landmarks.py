"""tools/measure_cleaning.py and tools/measure_proposals.py on a few small photos."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import torch
from PIL import Image

from objemb.config import load_config
from objemb.models import build_model
from tests.datasets.cleaning.collected import pattern

TOOLS = Path(__file__).parents[2] / "tools"


def test_cleaning_of_made_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cv2")
    (tmp_path / "photos").mkdir()
    for number in range(12):
        Image.fromarray(pattern(number, 160, 120)).save(tmp_path / "photos" / f"{number}.png")
    main = runpy.run_path(str(TOOLS / "measure_cleaning.py"))["main"]
    command = ["--photos", str(tmp_path / "photos"), "-o", str(tmp_path / "out"), "--classes", "1", "--per-class", "8"]
    report = main([*command, "--least", "8"])
    (result,) = report["results"]
    assert report["photos"] == 8
    assert result["pairs"] == 28
    assert result["precision"] == 1.0
    assert result["recall"] >= 0.5
    assert 0 < result["iou_start"] <= 1
    assert 0 < result["iou_refined"] <= 1
    assert json.loads(capsys.readouterr().out)["results"] == report["results"]


def test_recall_of_proposals_and_grids(tmp_path: Path) -> None:
    Image.fromarray(pattern(0, 90, 60)).save(tmp_path / "a.png")
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "width": 90, "height": 60}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 60, 60], "area": 3600, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "object"}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(coco))
    torch.manual_seed(0)
    network = "{name: narrow_resnet, width: 2, blocks: [1, 1, 1, 1], weights: random}"
    detector = f"{{name: faster_rcnn, backbone: {network}, pyramid_strides: [4, 8, 16], channels: 8, box_width: 8}}"
    overrides = [f"regions={{name: detections, detector: {detector}}}", f"backbone={network}", "extractor.size=64"]
    build_model(load_config("mean", overrides)).save(tmp_path / "model")
    main = runpy.run_path(str(TOOLS / "measure_proposals.py"))["main"]
    report = main([str(tmp_path / "model"), "--boxes", str(tmp_path / "boxes.json"), "--levels", "1"])
    assert (report["photos"], report["boxes"]) == (1, 1)
    grid = report["results"]["grid of 1 levels"]
    assert grid["recall_0.7"] == [1.0] * 9, "the first square of the grid is the box"
    proposals = report["results"][str(tmp_path / "model")]
    assert proposals["recall_0.5"] == sorted(proposals["recall_0.5"])
    assert proposals["regions"] > 0
    build_model(load_config("mean", [f"backbone={network}", "extractor.size=64"])).save(tmp_path / "plain")
    with pytest.raises(ValueError, match=r"MODEL: expected a model with a detector, found .*plain, which has none"):
        main([str(tmp_path / "plain"), "--boxes", str(tmp_path / "boxes.json")])
