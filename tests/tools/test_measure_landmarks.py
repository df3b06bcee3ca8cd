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
    assert result["processor_seconds"] > 0
    assert json.loads(capsys.readouterr().out)["results"] == report["results"]


def test_cleaning_of_crops_among_photos(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.fromarray(pattern(number, 160, 120)).save(tmp_path / "photos" / f"{number}.png")
    entries = []
    for number, name in enumerate(["cup", "tea"]):
        product = Image.fromarray(pattern(10 + number, 150, 200))
        for view in range(3):
            file = f"{name}{view}.png"
            product.crop((4 * view, 0, 150, 200 - 6 * view)).save(tmp_path / file)
            entries.append({"file": file, "instance": name})
    crops = {"images": entries[:5], "queries": entries[5:]}
    (tmp_path / "crops.json").write_text(json.dumps(crops))
    main = runpy.run_path(str(TOOLS / "measure_cleaning.py"))["main"]
    command = ["--photos", str(tmp_path / "photos"), "--crops", str(tmp_path / "crops.json"), "--noise", "2"]
    report = main([*command, "-o", str(tmp_path / "out")])
    (result,) = report["results"]
    assert report["photos"] == 10
    assert (result["kept"], result["precision"], result["recall"]) == (6, 1.0, 1.0)
    assert result["iou_refined"] > 0.6


def test_recall_of_proposals_and_grids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    model = str(tmp_path / "model")
    main = runpy.run_path(str(TOOLS / "measure_proposals.py"))["main"]
    report = main([model, "--boxes", str(tmp_path / "boxes.json"), "--levels", "1", "--detections"])
    assert (report["photos"], report["boxes"]) == (1, 1)
    assert json.loads(capsys.readouterr().out)["results"] == report["results"]
    grid = report["results"]["grid of 1 levels"]
    assert grid["recall_0.7"] == [1.0] * 9, "the first square of the grid is the box"
    proposals, detections = (report["results"][f"{kind} of {model}"] for kind in ("proposals", "detections"))
    assert proposals["recall_0.5"] == sorted(proposals["recall_0.5"])
    assert proposals["regions"] > 0
    assert detections["regions"] <= 100
    assert 0 <= report["precision"][model]["AP"] <= report["precision"][model]["AP50"] <= 1
    build_model(load_config("mean", [f"backbone={network}", "extractor.size=64"])).save(tmp_path / "plain")
    with pytest.raises(ValueError, match=r"MODEL: expected a model with a detector, found .*plain, which has none"):
        main([str(tmp_path / "plain"), "--boxes", str(tmp_path / "boxes.json")])


def test_the_table_of_recall_joins_the_networks_of_several_seeds() -> None:
    tool = runpy.run_path(str(TOOLS / "measure_proposals.py"))
    recall = {0.5: [0.1] * 8 + [0.5], 0.7: [0.0] * 9}
    results = {
        "proposals of a": tool["Measured"](256.0, recall),
        "proposals of b": tool["Measured"](200.0, {**recall, 0.5: [0.3] * 8 + [0.5]}),
        "grid of 1 levels": tool["Measured"](2.0, {0.5: [0.25, 1.0] + [1.0] * 7, 0.7: [0.2] * 9}),
    }
    table = tool["markdown"](results, ["a", "b"]).splitlines()
    assert table[0] == "| regions | IoU | 1 | 2 | 4 | 8 | 16 | 32 | 64 | 128 | 256 |"
    assert table[2] == "| proposals of 2 networks (228) | 0.5 |" + " 20.0 ± 14.1 |" * 8 + " 50.0 ± 0.0 |"
    assert table[3] == "| grid of 1 levels (2) | 0.5 | 25.0 | 100.0 |" + "  |" * 7, "no more than its squares"
    assert table[4].startswith("| proposals of 2 networks (228) | 0.7 | 0.0 ± 0.0 |")
    assert len(table) == 6


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
        assert {step.network, step.projection} <= {None, *measure_landmarks.STEPS}
        assert step.beside in {measure_landmarks.UNTRAINED, *measure_landmarks.STEPS}
        config, *settings = measure_landmarks.command(name, tmp_path, Path("weights.pth"), 3)
        resolved = load_training_config(config, settings)
        assert resolved["run"]["seed"] == 3
        before = "weights.pth" if step.network is None else str(tmp_path / "runs" / "seed3" / step.network / "model")
        assert before in json.dumps(resolved["task"])
        assert "test" not in json.dumps(resolved["task"]).replace(str(tmp_path), "")


def test_settings_are_chosen_on_validation_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For all seeds, and for the steps that start from that one."""
    trained: list[tuple[str, list[str]]] = []

    def train(name: str, folder: Path, weights: Path, seed: int, varied: list[str]) -> None:
        trained.append((name, varied))
        run = measure_landmarks.run_folder(folder, name, seed, varied)
        run.mkdir(parents=True)
        figures = {"run.lr=0.1": 0.4, "run.lr=0.2 run.steps=7": 0.6, "": 0.5}
        (run / "val.json").write_text(json.dumps({"mAP": figures[" ".join(varied)]}))

    monkeypatch.setattr(measure_landmarks, "train", train)
    command = ["choose", "-o", str(tmp_path), "--weights", "w", "--steps", "classify_clean"]
    measure_landmarks.main([*command, "--vary", "run.lr=0.1", "run.lr=0.2 run.steps=7"])
    measure_landmarks.main([*command, "--vary", ""])
    assert trained == [("classify_clean", varied) for varied in (["run.lr=0.1"], ["run.lr=0.2", "run.steps=7"], [])]
    choice = json.loads((tmp_path / "choices.json").read_text())["classify_clean"]
    assert choice["settings"] == "run.lr=0.2 run.steps=7", "the better one of an earlier call stays"
    assert len(choice["tried"]) == 3
    for name, seed in (("classify_clean", 5), ("classify_longer", 0), ("rank", 2)):
        resolved = load_training_config(*_split(measure_landmarks.command(name, tmp_path, Path("w"), seed)))
        assert (resolved["run"]["steps"] == 7) == (name != "rank"), "its control has the same settings"
        run = str(measure_landmarks.run_folder(tmp_path, "classify_clean", seed))
        assert run.endswith("classify_clean@run.lr=0.2@run.steps=7")
        assert (run in json.dumps(resolved["task"])) == (name == "rank")


def _split(command: list[str]) -> tuple[str, list[str]]:
    return command[0], command[1:]


def test_the_table_of_landmarks_has_mean_and_deviation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, values in enumerate([(0.5, 0.6), (0.54, 0.6)]):
        for name, more in (("untrained", 0.0), ("rank_all", -0.01), ("rank", 0.02 * seed)):
            folder = tmp_path / "runs" / f"seed{seed}" / name
            folder.mkdir(parents=True)
            (folder / "test.json").write_text(json.dumps({"mAP": values[0] + more, "P@1": values[1], "queries": 4}))
    command = ["table", "-o", str(tmp_path), "--weights", "none", "--seeds", "0", "1"]
    report = measure_landmarks.main([*command, "--steps", "rank_all", "rank", "detect"])
    assert report["queries"] == 4
    assert report["rows"] == {
        "untrained": {"mAP": "50.0", "P@1": "60.0"},
        "rank_all": {"mAP": "51.0 ± 2.8", "P@1": "60.0 ± 0.0"},
        "rank": {
            "mAP": "53.0 ± 4.2", "P@1": "60.0 ± 0.0", "beside": "rank_all", "gain": "2.0 ± 1.4", "better": "2 of 2",
        },
    }  # fmt: skip
    assert json.loads(capsys.readouterr().out)["rows"] == report["rows"]
