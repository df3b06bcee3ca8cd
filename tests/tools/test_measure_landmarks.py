"""tools/measure_cleaning.py, measure_proposals.py and measure_landmarks.py on a few small photos."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import torch
from PIL import Image

from objemb.config import load_config, load_training_config
from objemb.models import build_model
from objemb.training.data.coco import CocoExamples
from objemb.training.data.folder import FolderExamples
from tests.datasets.cleaning.collected import pattern
from tools import measure_landmarks

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


def test_sets_of_landmarks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2")
    (tmp_path / "photos").mkdir()
    for number in range(20):
        Image.fromarray(pattern(number, 120, 80)).save(tmp_path / "photos" / f"{number}.png")
    monkeypatch.setattr(measure_landmarks, "SPLITS", {"train": (2, 6, 0.4), "val": (1, 4, 0.3), "test": (1, 10, 0.3)})
    out = tmp_path / "out"
    measure_landmarks.main(["data", "--photos", str(tmp_path / "photos"), "-o", str(out)])
    assert (out / "train" / "cleaned" / "clean.csv").is_file()
    test = FolderExamples(sources=out / "test" / "true.csv")
    counts = sorted(torch.bincount(torch.cat([test.identities(n) for n in range(len(test))])).tolist())
    assert counts == [1, 1, 1, 2, 5], "photos of noise, of the second view and of the façade"
    assert len(FolderExamples(sources=out / "train" / "all.csv").instances) == 2
    boxes = CocoExamples(file=out / "test" / "boxes.json")
    assert (len(boxes), boxes.box_count()) == (7, 7)


def test_the_steps_of_landmarks_are_configs_of_training(tmp_path: Path) -> None:
    for name, step in measure_landmarks.STEPS.items():
        assert step.network is None or step.network in measure_landmarks.STEPS
        config, *settings = measure_landmarks.command(name, tmp_path, Path("weights.pth"), 3)
        resolved = load_training_config(config, settings)
        assert resolved["run"]["seed"] == 3
        before = "weights.pth" if step.network is None else str(tmp_path / "runs" / "seed3" / step.network / "model")
        assert before in json.dumps(resolved["task"])


def test_the_table_of_landmarks_has_mean_and_deviation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pictures = tmp_path / "test"
    write_pictures.mkdir()
    Image.fromarray(pattern(0, 20, 20)).save(write_pictures / "a.png")
    (write_pictures / "true.csv").write_text(f"path,instance\n{write_pictures / 'a.png'},x\n")
    for seed, values in enumerate([(0.5, 0.6), (0.54, 0.6)]):
        for name in ("untrained", "rank"):
            folder = tmp_path / "runs" / f"seed{seed}" / name
            folder.mkdir(parents=True)
            (folder / "test.json").write_text(json.dumps({"mAP": values[0], "P@1": values[1], "queries": 4}))
    command = ["table", "-o", str(tmp_path), "--weights", "none", "--seeds", "0", "1", "--steps", "rank", "detect"]
    report = measure_landmarks.main(command)
    assert report["rows"] == {
        "untrained": {"mAP": "50.0", "P@1": "60.0"},
        "rank": {"mAP": "52.0 ± 2.8", "P@1": "60.0 ± 0.0"},
    }
    assert json.loads(capsys.readouterr().out)["photos"] == 1
