from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

import transformers
from safetensors.torch import load_file, save_file

from objemb import registry
from objemb.checks import MissingWeightsError
from objemb.detectors.base import Detector
from objemb.detectors.hf_detector import UNLIMITED, HfDetector
from objemb.models.build import build_model, load_model, save_model
from objemb.weights.read import UnreadableWeightsError
from tests.detectors.small_transformers import FOLDERS, NAMES, small
from tests.small_settings import CROPS
from tests.tiny import noise_photo, random_photo

KINDS = pytest.mark.parametrize("kind", FOLDERS)


def minimal(folder: Path) -> dict[str, Any]:
    return small("detr", folder / "detr")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return {kind: small(kind, tmp_path_factory.mktemp("hf") / kind) for kind in FOLDERS}


@KINDS
def test_boxes_equal_those_of_transformers(kind: str, settings: dict[str, dict[str, Any]]) -> None:
    """The photo is prepared, its boxes are computed, and scores are found as its documentation shows it."""
    said, photo = settings[kind], noise_photo(40, 60)
    found = HfDetector(**said).detect([photo])[0]
    image = torch.as_tensor(photo.pixels)
    if said["prompts"] is None:
        processor = transformers.AutoImageProcessor.from_pretrained(said["weights"])
        network = transformers.AutoModelForObjectDetection.from_pretrained(said["weights"]).eval()
        inputs = processor(images=image, return_tensors="pt")
    else:
        processor = transformers.AutoProcessor.from_pretrained(said["weights"])
        network = transformers.AutoModelForZeroShotObjectDetection.from_pretrained(said["weights"]).eval()
        text = "a red box. cup." if kind == "grounding-dino" else [said["prompts"]]
        inputs = processor(text=text, images=image, return_tensors="pt", padding="max_length", max_length=16)
        if kind == "grounding-dino":
            inputs = processor(text=text, images=image, return_tensors="pt")
    with torch.no_grad():
        outputs = network(**inputs)
    x, y, w, h = outputs.pred_boxes[0].unbind(-1)
    side = (60, 60) if kind == "owlv2" else (60, 40)  # which pads photos to squares
    boxes = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1) * torch.tensor([*side, *side])
    if kind in ("detr", "yolos"):
        scores, labels = outputs.logits[0].softmax(-1)[:, :-1].max(-1)
    elif kind == "rt_detr":
        flat = outputs.logits[0].sigmoid().flatten().topk(7)
        scores, labels, boxes = flat.values, flat.indices % 3, boxes[flat.indices // 3]
    elif kind == "grounding-dino":  # [CLS] a red box . cup . [SEP]
        tokens = outputs.logits[0].sigmoid()
        scores, labels = torch.stack([tokens[:, 1:4].amax(1), tokens[:, 5]], 1).max(1)
    else:
        scores, labels = outputs.logits[0].sigmoid().max(-1)
    order = scores.sort(descending=True, stable=True).indices
    assert len(found) == len(scores)
    torch.testing.assert_close(torch.as_tensor(found.scores), scores[order], rtol=1e-4, atol=1e-5)
    certain = found.scores < 0.999  # scores of 1 are ties
    assert certain.any()
    assert found.labels[certain].tolist() == labels[order].numpy()[certain].tolist()
    expected = boxes[order].clamp(min=torch.zeros(4), max=torch.tensor([60.0, 40, 60, 40]))
    torch.testing.assert_close(torch.as_tensor(found.boxes), expected, rtol=1e-3, atol=1e-2)
    assert found.classes == tuple(said["prompts"] or NAMES.values())


@KINDS
def test_a_model_folder_has_all_that_it_needs(kind: str, settings: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    said = dict(settings[kind])
    shutil.copytree(said["weights"], tmp_path / "source")
    said["weights"] = str(tmp_path / "source")
    regions = {"name": "detections", "detector": {"name": "hf_detector", **said}, "min_score": 0.0, "nms_iou": 1.0}
    backbone = {**CROPS["backbone"], "weights": "random"}
    describer = {**CROPS, "regions": regions, "backbone": backbone}
    model = build_model({"describer": describer, "aggregator": {"name": "keep"}})
    save_model(model, tmp_path / "model")
    shutil.rmtree(tmp_path / "source")
    opened = load_model(tmp_path / "model")
    assert opened.fingerprint == model.fingerprint
    photo = random_photo(50, 70)
    before, after = model.detect(photo), opened.detect(photo)
    assert len(before) > 1
    assert np.array_equal(before.boxes, after.boxes)
    assert before.classes == after.classes == tuple(said["prompts"] or NAMES.values())
    origin = model.provenance["weights"]["describer.regions.detector.weights"]
    assert len(origin["sha256"]) == 64


def test_photos_of_one_shape_share_a_pass(settings: dict[str, dict[str, Any]]) -> None:
    detector = HfDetector(**settings["owlvit"])
    passes: list[int] = []
    detector.network.register_forward_hook(lambda *_: passes.append(1))
    found = detector.detect([noise_photo(40, 60, seed=n) for n in range(3)])
    assert passes == [1]
    assert all(len(regions) for regions in found)


def test_scores_and_limits(settings: dict[str, dict[str, Any]]) -> None:
    photo = noise_photo(40, 60)
    every = HfDetector(**settings["detr"]).detect([photo])[0]
    middle = float(np.median(every.scores))
    some = HfDetector(**{**settings["detr"], "score_threshold": middle}).detect([photo])[0]
    assert some.scores.tolist() == [score for score in every.scores.tolist() if score > middle]
    (one,) = HfDetector(**{**settings["detr"], "max_detections": 1}).detect([photo])
    assert one.scores.tolist() == every.scores[:1].tolist()


def test_decode_side(settings: dict[str, dict[str, Any]]) -> None:
    assert HfDetector(**settings["detr"]).decode_side() == 96
    assert HfDetector(**settings["owlvit"]).decode_side() == 32
    detector = HfDetector(**settings["detr"])
    detector.processor.size = {"shortest_edge": 64}
    assert detector.decode_side() == UNLIMITED


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1)])
def test_photos_of_a_pixel(settings: dict[str, dict[str, Any]], size: tuple[int, int]) -> None:
    (found,) = HfDetector(**settings["detr"]).detect([random_photo(*size)])
    assert found.size == size
    assert (found.boxes[:, 2:] <= [size[1], size[0]]).all()


def test_random_weights_of_a_config(settings: dict[str, dict[str, Any]]) -> None:
    folder = settings["detr"]["weights"]
    drawn = HfDetector(config=folder, weights="random", score_threshold=0.0)
    photo = noise_photo(40, 60)
    assert not np.allclose(drawn.detect([photo])[0].scores, HfDetector(**settings["detr"]).detect([photo])[0].scores)


def test_nothing_of_a_config_is_downloaded_or_run(settings: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    folder = tmp_path / "hostile"
    shutil.copytree(settings["detr"]["weights"], folder)
    config = json.loads((folder / "config.json").read_text())
    config["use_pretrained_backbone"] = True
    config["auto_map"] = {"AutoModelForObjectDetection": "code.Network"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text("raise SystemExit('code of a repository was run')")
    assert len(HfDetector(weights=folder, score_threshold=0.0).detect([noise_photo(40, 60)])[0]) == 7


def test_a_model_folder_cannot_name_a_config(settings: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    from objemb.models.origins import expect_stand_alone

    part = {"name": "hf_detector", "config": settings["detr"]["weights"], "weights": None}
    with pytest.raises(ValueError, match=r"detector\.config: expected a self-contained model folder"):
        expect_stand_alone({"detector": part})


class TestMistakes:
    def test_of_prompts(self, settings: dict[str, dict[str, Any]]) -> None:
        with pytest.raises(ValueError, match=r"expected none, .* 'detr' has classes of its own, found \['cup'\]"):
            HfDetector(**{**settings["detr"], "prompts": ["cup"]})
        for nothing in (None, [], ["cup", " "]):
            with pytest.raises(ValueError, match=r"prompts: expected descriptions of the objects .* 'owlvit'"):
                HfDetector(**{**settings["owlvit"], "prompts": nothing})
        with pytest.raises(ValueError, match="prompts: expected at most 16 tokens together, found 24"):
            HfDetector(**{**settings["grounding-dino"], "prompts": ["a red box", "cup"] * 3 + ["cup"] * 2})

    def test_prompts_that_are_not_those_of_the_tokens(self, settings: dict[str, dict[str, Any]]) -> None:
        config = HfDetector.stand_alone({"config": None, **settings["owlvit"]})["config"]
        with pytest.raises(ValueError, match="prompts: expected 2, whose tokens config has, found 1"):
            HfDetector(**{**settings["owlvit"], "config": config, "prompts": ["cup"]})
        assert isinstance(config, dict)
        del config["tokens"]
        with pytest.raises(ValueError, match="config: expected the tokens of 2 prompts, found None"):
            HfDetector(**{**settings["owlvit"], "config": config})

    def test_nothing_named(self) -> None:
        for weights in (None, "random"):
            with pytest.raises(ValueError, match=r"expected weights or config, .* found neither"):
                HfDetector(weights=weights)
        with pytest.raises(ValueError, match="config: expected a mapping with the parts 'network' and 'photos'"):
            HfDetector(config={"network": 3})

    def test_another_kind_of_network(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"model_type": "bert"}')
        with pytest.raises(ValueError, match=r"model type: expected a detector .*owlvit.* found 'bert'"):
            HfDetector(weights=tmp_path)
        (tmp_path / "config.json").write_text('{"model_type": "unheard of"}')
        with pytest.raises(UnreadableWeightsError, match="unheard of"):
            HfDetector(weights=tmp_path)

    def test_a_folder_without_its_files(self, settings: dict[str, dict[str, Any]], tmp_path: Path) -> None:
        with pytest.raises(UnreadableWeightsError, match=r"transformers cannot read it .*model_type"):
            HfDetector(weights=tmp_path)
        shutil.copytree(settings["detr"]["weights"], tmp_path / "part")
        (tmp_path / "part" / "model.safetensors").unlink()
        with pytest.raises(MissingWeightsError, match=r"could not be downloaded .*model\.safetensors"):
            HfDetector(weights=tmp_path / "part")
        with pytest.raises(MissingWeightsError, match=r"expected a folder of transformers or a repo.* found /no/such"):
            HfDetector(weights="/no/such/folder")

    def test_weights_of_another_network(self, settings: dict[str, dict[str, Any]], tmp_path: Path) -> None:
        config = HfDetector.stand_alone({"config": None, **settings["detr"]})["config"]
        with pytest.raises(UnreadableWeightsError, match="yolos: transformers cannot read it"):
            HfDetector(config=config, weights=settings["yolos"]["weights"])
        shutil.copytree(settings["detr"]["weights"], tmp_path / "part")
        state = load_file(tmp_path / "part" / "model.safetensors")
        del state["bbox_predictor.layers.1.weight"]
        save_file(state, tmp_path / "part" / "model.safetensors", {"format": "pt"})
        with pytest.raises(UnreadableWeightsError, match=r"found none for bbox_predictor\.layers\.1\.weight"):
            HfDetector(weights=tmp_path / "part")

    def test_no_network_connection(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(MissingWeightsError, match=r"some-org/no-such-detector@v1 is not on this machine"):
            HfDetector(weights="some-org/no-such-detector@v1")

    def test_transformers_missing(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setitem(__import__("sys").modules, "transformers", None)
        with pytest.raises(ImportError, match=r"hf_detector needs transformers: pip install 'objemb\[transformers\]'"):
            HfDetector(weights=tmp_path)


def test_it_is_a_plugin(settings: dict[str, dict[str, Any]]) -> None:
    resolved = registry.resolve("detectors", {"name": "hf_detector", **settings["owlvit"]}, "detector")
    assert json.loads(json.dumps(resolved["config"])) == resolved["config"]
    assert isinstance(registry.build(Detector, resolved), HfDetector)
