"""Networks of Detectron2 as models, and models as networks of Detectron2: equal boxes, scores and vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from objemb.cli.main import main
from objemb.config import merge
from objemb.models import build_model, load_model, save_model
from objemb.models.detectron2 import settings_of, write_detectron2
from tests.models.test_origins import RCNN
from tests.tiny import noise_photo

try:
    import detectron2  # noqa: F401
except ImportError:
    DefaultPredictor: Any = None
else:
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.engine import DefaultPredictor

    from objemb.detectors.detectron2_rcnn import embedding_config
    from tests.detectors.small_detectron2 import built
    from tests.detectors.small_detectron2 import embedding_config as small_config
    from tests.detectors.test_detectron2_heads import tail_config

needs_detectron2 = pytest.mark.skipif(DefaultPredictor is None, reason="Detectron2 is not installed")


def test_models_that_have_no_form_in_detectron2(tmp_path: Path) -> None:
    settings = {"name": "one_pass", "detector": RCNN, "head": {"name": "embedding", "dim": 8, "weights": "random"}}
    with pytest.raises(ValueError, match=r"expected a one_pass with the detector detectron2_rcnn.*found FasterRcnn"):
        write_detectron2(build_model({"describer": settings}), tmp_path / "d2")


def trained(tmp_path: Path, cfg: Any, **node: Any) -> DefaultPredictor:
    cfg.MODEL.ROI_EMBEDDING_HEAD.CLASSES = ["cup", "jar", "tin"]
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.1
    DetectionCheckpointer(built(cfg, seed=5), str(tmp_path)).save("model_final", iteration=3)
    cfg.MODEL.WEIGHTS = "model_final.pth"
    (tmp_path / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
    return DefaultPredictor(embedding_config(tmp_path / "config.yaml"))


def expect_equal(model: Any, predictor: DefaultPredictor, size: tuple[int, int]) -> None:
    pixels = np.ascontiguousarray(noise_photo(*size, seed=4).pixels.transpose(1, 2, 0))
    instances = predictor(pixels[:, :, ::-1])["instances"]
    assert len(instances) >= 2
    described = model.describe(pixels)
    boxes, vectors = described.regions[1:], torch.as_tensor(described.vectors)[1:]
    assert torch.equal(torch.as_tensor(boxes.boxes), instances.pred_boxes.tensor)
    assert torch.equal(torch.as_tensor(boxes.scores), instances.scores)
    torch.testing.assert_close(vectors, instances.pred_embeddings, rtol=0, atol=1e-4)
    assert torch.equal(torch.as_tensor(boxes.labels), instances.pred_classes)
    assert boxes.classes == ("cup", "jar", "tin")


@pytest.mark.detectron2
@needs_detectron2
@pytest.mark.parametrize("side", [0.0, 24.0])
@pytest.mark.parametrize("head", ["embedding", "tail"])
def test_there_and_back(head: str, side: float, tmp_path: Path) -> None:
    cfg = small_config(OBJECT_SIDE=side) if head == "embedding" else tail_config(OBJECT_SIDE=side)
    predictor = trained(tmp_path, cfg)
    settings, origins = settings_of(tmp_path / "config.yaml", tmp_path / "model_final.pth")
    assert origins["head"] == f"{head} of {tmp_path / 'model_final.pth'}"
    assert origins["labels"] == "3 names of the config"
    save_model(build_model(settings), tmp_path / "model")
    model = load_model(tmp_path / "model")
    assert model.untrained == []
    for size in ((200, 290), (64, 80), (90, 31)):
        expect_equal(model, predictor, size)
    write_detectron2(model, tmp_path / "back")
    back = DefaultPredictor(embedding_config(tmp_path / "back" / "config.yaml"))
    expect_equal(model, back, (200, 290))
    with pytest.raises(FileExistsError, match="expected a new folder"):
        write_detectron2(model, tmp_path / "back")


@pytest.mark.detectron2
@needs_detectron2
def test_windows_of_photos_have_no_form_in_detectron2(tmp_path: Path) -> None:
    trained(tmp_path, tail_config(OBJECT_SIDE=24.0))
    settings, _ = settings_of(tmp_path / "config.yaml", tmp_path / "model_final.pth")
    finer = build_model(merge(settings, {"describer": {"windows_from": "photo"}}))
    assert finer.fingerprint != build_model(settings).fingerprint
    with pytest.raises(ValueError, match=r"expected describer.windows_from input, .*--windows-from-input"):
        write_detectron2(finer, tmp_path / "d2")
    back = write_detectron2(finer, tmp_path / "d2", windows_from_input=True)
    assert embedding_config(back / "config.yaml").MODEL.ROI_EMBEDDING_HEAD.OBJECT_SIDE == 24.0


@pytest.mark.detectron2
@needs_detectron2
def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(tmp_path, small_config())
    files = ["--config-file", str(tmp_path / "config.yaml"), "--weights", str(tmp_path / "model_final.pth")]
    with pytest.raises(SystemExit) as ended:
        main(["model", "build", "detectron2", *files, "--classes", "a,b,c", "-o", str(tmp_path / "m"), "--json"])
    assert ended.value.code in (0, None)
    output = capsys.readouterr()
    assert "labels: 3 names of --classes" in output.err
    assert json.loads(output.out)["settings"]["describer"]["detector"]["classes"] == ["a", "b", "c"]
    with pytest.raises(SystemExit):
        main(["model", "to-detectron2", str(tmp_path / "m"), "-o", str(tmp_path / "d2")])
    assert (tmp_path / "d2" / "model_final.pth").is_file()
    assert "DefaultPredictor(embedding_config(" in capsys.readouterr().out


@pytest.mark.detectron2
@needs_detectron2
def test_a_network_without_a_head_is_refused(tmp_path: Path) -> None:
    trained(tmp_path, small_config())
    state = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    torch.save({k: v for k, v in state.items() if "embedding_head" not in k}, tmp_path / "plain.pth")
    settings, origins = settings_of(tmp_path / "config.yaml", tmp_path / "plain.pth")
    assert origins["head"] == "none in the weights"
    with pytest.raises(ValueError, match=r"found none for describer.head \(embedding\); pass describer.head.weights="):
        build_model(settings)
