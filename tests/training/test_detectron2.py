"""Training in Detectron2 by the program: what a run leaves, resuming, evaluation, and what becomes a model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

pytest.importorskip("detectron2")

from PIL import Image

from objemb.cli.programs.train_detectron2 import main, parse, run
from objemb.models import build_model, save_model
from objemb.models.detectron2 import settings_of
from objemb.training._detectron2 import Steps, read_checkpoint
from tests.detectors.small_detectron2 import embedding_config
from tests.tiny import noise_photo

pytestmark = pytest.mark.detectron2

NARROW = {"name": "narrow_resnet", "width": 8, "blocks": [1, 1, 1, 1]}


def scenes(folder: Path) -> Path:
    """Four photos with two boxes each, of the instances a and b."""
    images, annotations = [], []
    for number in range(4):
        rows = noise_photo(64, 80, seed=number).pixels.transpose(1, 2, 0)
        Image.fromarray(rows).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 80, "height": 64})
        for name, box in (("a", [4, 6, 36, 44]), ("b", [30, 20, 48, 40])):
            where = {"image_id": number, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "instance": name, **where})
    categories = [{"id": 1, "name": "thing"}]
    content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    (folder / "scenes.json").write_text(json.dumps(content), encoding="utf-8")
    return folder / "scenes.json"


def command(folder: Path, output: str, *more: str) -> list[str]:
    cfg = embedding_config(NAME="tail", STRIDE=8, SAMPLES=5, OBJECT_SIDE=32.0, PROPOSALS_PER_IMAGE=0)
    cfg.merge_from_list(["INPUT.MIN_SIZE_TRAIN", (64,), "DATALOADER.NUM_WORKERS", 0, "SOLVER.CHECKPOINT_PERIOD", 2])
    cfg.merge_from_list(["SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 4, "SOLVER.STEPS", (3,), "DATASETS.TRAIN", ()])
    cfg.merge_from_list(["DATASETS.TEST", (), "MODEL.WEIGHTS", "", "SOLVER.BASE_LR", 0.001])
    (folder / "small.yaml").write_text(cfg.dump(), encoding="utf-8")
    teacher = {"name": "pooled_regions", "extractor": {"name": "crop", "size": 32}, "regions": {"name": "detections"}}
    if not (folder / "teacher").is_dir():
        settings = {"describer": {**teacher, "backbone": NARROW, "pooling": {"name": "mean"}}}
        save_model(build_model(settings), folder / "teacher")
    data = [str(scenes(folder)), "--teacher", str(folder / "teacher")]
    return ["--config-file", str(folder / "small.yaml"), "--train", *data, *more, "OUTPUT_DIR", str(folder / output)]


def weights(folder: Path) -> dict[str, Any]:
    state: Any = read_checkpoint(str(folder / "model_final.pth"))["model"]
    return dict(state)


def test_a_run_resumed_equals_one_that_was_not_interrupted(tmp_path: Path) -> None:
    figures = run(parse(command(tmp_path, "whole", "--test", str(tmp_path / "scenes.json"))))
    assert {"bbox", "embedding"} <= set(figures)
    assert 0 < figures["embedding"]["cosine"] <= 1
    assert 0 <= figures["embedding"]["mAP"] <= 1
    logged = [json.loads(line) for line in (tmp_path / "whole" / "metrics.json").read_text().splitlines()]
    assert any("loss_embedding" in line and "roi_head/embedding_cosine" in line for line in logged)
    assert list((tmp_path / "whole").glob("events.out.tfevents.*"))
    (tmp_path / "killed").mkdir()
    shutil.copy(tmp_path / "whole" / "model_0000001.pth", tmp_path / "killed")
    (tmp_path / "killed" / "last_checkpoint").write_text("model_0000001.pth", encoding="utf-8")
    run(parse(command(tmp_path, "killed", "--resume")))
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    before: Any = read_checkpoint(str(tmp_path / "whole" / "model_0000001.pth"))["model"]
    assert any(not torch.equal(value, before[name]) for name, value in whole.items())
    settings, origins = settings_of(tmp_path / "whole" / "config.yaml", tmp_path / "whole" / "model_final.pth")
    assert origins["labels"] == "1 names of the config"
    assert build_model(settings).untrained == []
    assert yaml.safe_load((tmp_path / "whole" / "config.yaml").read_text())["MODEL"]["ROI_HEADS"]["NUM_CLASSES"] == 1


def test_two_processes_of_cpus(tmp_path: Path) -> None:
    """They end with the same weights after a resumption, and evaluate together."""
    test = ["--test", str(tmp_path / "scenes.json")]
    main([*command(tmp_path, "whole", *test), "--num-gpus", "2"])
    logged = [json.loads(line) for line in (tmp_path / "whole" / "metrics.json").read_text().splitlines()]
    assert {"bbox/AP", "embedding/mAP"} <= set(logged[-1])
    (tmp_path / "killed").mkdir()
    shutil.copy(tmp_path / "whole" / "model_0000001.pth", tmp_path / "killed")
    (tmp_path / "killed" / "last_checkpoint").write_text("model_0000001.pth", encoding="utf-8")
    main([*command(tmp_path, "killed", "--resume"), "--num-gpus", "2"])
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_data_of_a_module_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_shelves.py").write_text(
        "from pathlib import Path\nfrom objemb.training._detectron2 import register_coco\n"
        "here = Path(__file__).parent\nregister_coco('my_shelves', here / 'scenes.json', here)\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments = command(tmp_path, "own", "--import", "my_shelves")
    del arguments[2:4]  # --train and its file
    run(parse([*arguments, "DATASETS.TRAIN", "('my_shelves',)", "SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "()"]))
    model = yaml.safe_load((tmp_path / "own" / "config.yaml").read_text(encoding="utf-8"))["MODEL"]
    assert model["ROI_EMBEDDING_HEAD"]["CLASSES"] == ["thing"]
    assert weights(tmp_path / "own")


def test_only_evaluation(tmp_path: Path) -> None:
    arguments = command(tmp_path, "evaluated", "--eval-only", "--test", str(tmp_path / "scenes.json"))
    assert {"bbox", "embedding"} <= set(run(parse(arguments)))
    assert not (tmp_path / "evaluated" / "model_final.pth").exists()


def test_the_images_of_a_step() -> None:
    steps, later = Steps(5, 2, seed=3), Steps(5, 2, seed=3)
    later.start = 2
    from_start, from_later = iter(steps), iter(later)
    drawn = [next(from_start) for _ in range(5)]
    assert [next(from_later) for _ in range(3)] == drawn[2:]
    indices = [index for step in drawn for _, index in step]
    assert sorted(indices[:5]) == sorted(indices[5:]) == list(range(5))
    assert [draw for step in drawn for draw, _ in step] == list(range(10))
    with pytest.raises(ValueError, match=r"DATASETS.TRAIN: expected images"):
        Steps(0, 2, seed=0)
