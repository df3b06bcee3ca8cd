from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from objemb.backbones.base import Backbone
from objemb.checks import ArtefactMismatchError, MissingWeightsError
from objemb.config import load_config
from objemb.disk import file_sha256
from objemb.models import Model, build_model, load_model, save_model
from objemb.models.origins import described, expect_weights, missing_together, networks, origins, untrained
from objemb.registry import build

NARROW = {"name": "narrow_resnet", "width": 4, "blocks": [1, 1, 1, 1]}
RCNN = {"name": "faster_rcnn", "backbone": NARROW, "pyramid_strides": [8, 16], "channels": 8, "box_width": 8}
CNN = {"name": "torchvision_cnn", "arch": "squeezenet1_1"}
LIGHT = "fasterrcnn_mobilenet_v3_large_320_fpn"
KEPT = ("created", "command", "versions")


def crops(**parts: Any) -> dict[str, Any]:
    own = {"regions": {"name": "detections"}, "backbone": NARROW, "pooling": {"name": "mean"}}
    return {"describer": {"name": "pooled_regions", "extractor": {"name": "crop", "size": 33}, **own, **parts}}


def one_pass(**head: Any) -> dict[str, Any]:
    return {"describer": {"name": "one_pass", "detector": RCNN, "head": head}}


REFUSED = {
    "torchvision_cnn": (crops(backbone=CNN), "describer.backbone.weights=DEFAULT"),
    "a layer of neural codes": (
        {
            "describer": {
                "name": "neural_codes",
                "regions": {"name": "whole_image"},
                "arch": "alexnet",
                "layer": "flatten",
            }
        },
        "describer.weights=DEFAULT",
    ),
    "a detector": (
        crops(regions={"name": "detections", "detector": {"name": "torchvision_rcnn", "arch": LIGHT}}),
        "describer.regions.detector.weights=DEFAULT",
    ),
    "a trunk within a detector": (
        crops(regions={"name": "detections", "detector": {**RCNN, "backbone": CNN}}),
        "describer.regions.detector.backbone.weights=DEFAULT",
    ),
    "a head that a training makes": (one_pass(name="embedding"), r"describer.head.weights=MODEL"),
    "the stages of a tail": (
        one_pass(name="tail", backbone=CNN, pooling={"name": "mean"}),
        "describer.head.backbone.weights=DEFAULT",
    ),
    "a re-ranker": (
        {
            **crops(),
            "rerank": [
                {
                    "name": "region_rerank",
                    "regions": {"name": "detections", "detector": {"name": "torchvision_rcnn", "arch": LIGHT}},
                }
            ],
        },
        r"rerank\[0\].regions.detector.weights=DEFAULT",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_networks_that_have_published_weights_must_name_some(case: str) -> None:
    settings, said = REFUSED[case]
    with pytest.raises(ValueError, match=f"expected weights for every network, found none for .*pass {said}"):
        build_model(settings)


def test_timm_and_detectron2_must_name_some_as_well() -> None:
    for backbone, said in ((CNN | {"name": "timm_net"}, "pretrained"), ({"name": "detector_trunk"}, "FILE")):
        inner = {"detector": {"name": "detectron2_rcnn"}} if said == "FILE" else {}
        pytest.importorskip("timm")
        with pytest.raises(ValueError, match=f"weights={said} .*weights=random for random weights"):
            expect_weights({"describer": {"name": "pooled_regions", "backbone": {**backbone, **inner}}})


def test_all_of_them_are_named_in_one_error_and_random_must_be_said() -> None:
    both = crops(backbone=CNN, regions={"name": "detections", "detector": {**RCNN, "backbone": CNN}})
    with pytest.raises(
        ValueError, match=r"\.backbone \(torchvision_cnn\), describer\.backbone \(torchvision_cnn\); pass"
    ):
        build_model(both)
    random = CNN | {"weights": "random"}
    build_model(crops(backbone=random, regions={"name": "detections", "detector": {**RCNN, "backbone": random}}))


def test_weights_of_a_whole_detector_are_those_of_its_trunk(tmp_path: Path) -> None:
    detector = {**RCNN, "backbone": CNN, "weights": "random"}
    built = build_model(crops(regions={"name": "detections", "detector": detector}))
    torch.save(built.detector.state_dict(), tmp_path / "d.pth")  # type: ignore[union-attr]
    detector["weights"] = str(tmp_path / "d.pth")
    model = build_model(crops(regions={"name": "detections", "detector": detector}))
    assert model.untrained == ["describer.backbone"]
    texts = described(model.settings, model.provenance)
    digest = file_sha256(tmp_path / "d.pth")
    assert texts["describer.regions.detector"] == f"{tmp_path / 'd.pth'} (sha256 {digest})"
    assert texts["describer.regions.detector.backbone"] == texts["describer.regions.detector"]


def test_networks_trained_from_scratch_need_no_weights_and_are_reported(tmp_path: Path) -> None:
    model = build_model(crops())
    assert model.untrained == ["describer.backbone"]
    assert model.provenance["weights"] == {"describer.backbone.weights": {"name": "random", "seed": 0}}
    save_model(model, tmp_path / "m")
    opened = load_model(tmp_path / "m")
    assert opened.untrained == ["describer.backbone"]
    assert described(opened.settings, opened.provenance) == {"describer.backbone": "random (seed 0)"}
    fed = build_model(crops(backbone={**NARROW, "weights": str(tmp_path / "m")}))
    assert fed.untrained == ["describer.backbone"], "a folder of random weights is no better for being a folder"
    assert described(fed.settings, fed.provenance)["describer.backbone"] == (
        f"{tmp_path / 'm'} (fingerprint {model.fingerprint}, where 'describer.backbone' was random)"
    )


def test_what_a_training_has_taught_is_not_random() -> None:
    settings = build_model(crops(regions={"name": "detections", "detector": RCNN})).settings
    begun = {"weights": origins(settings, seed=5)}
    assert untrained(settings, begun) == [n.key for n in networks(settings)]
    taught = {**begun, "training": {"task": "Detect", "learned": ["describer.regions.detector"]}}
    assert untrained(settings, taught) == ["describer.backbone"]
    texts = described(settings, taught)
    assert texts["describer.regions.detector"] == "random (seed 5), then trained by the task Detect"
    assert texts["describer.backbone"] == "random (seed 5)"


def test_folders_that_kept_no_origins() -> None:
    settings = build_model(crops()).settings
    assert untrained(settings, {"weights": {}}) == ["describer.backbone"]
    assert untrained(settings, {"training": {"task": "Classify"}}) == []
    assert untrained(settings, {"weights": {"describer.backbone.weights": {"name": "w.pth"}}}) == []
    assert described(settings, {}) == {"describer.backbone": "random"}


def test_a_head_comes_from_what_a_training_left(tmp_path: Path) -> None:
    first = build_model(one_pass(name="embedding", dim=8, width=8, weights="random"))
    with torch.no_grad():
        for parameter in first.describer.head.parameters():  # type: ignore[union-attr]
            parameter += 1
    save_model(replace(first, provenance={"training": {"learned": ["describer.head"]}}), tmp_path / "m")
    detectron2 = {f"roi_heads.embedding_head.{k}": v for k, v in first.describer.head.state_dict().items()}  # type: ignore[union-attr]
    torch.save({"model": detectron2 | {"backbone.x": torch.zeros(1)}, "iteration": 3}, tmp_path / "model_final.pth")
    for weights in ("m", "model_final.pth"):
        head = {"name": "embedding", "dim": 8, "width": 8, "weights": str(tmp_path / weights)}
        built = build_model(one_pass(**head))
        for name, value in built.describer.head.state_dict().items():  # type: ignore[union-attr]
            assert torch.equal(value, first.describer.head.state_dict()[name])  # type: ignore[union-attr]
        assert "describer.head" not in built.untrained
    with pytest.raises(
        MissingWeightsError, match=r"describer.head.weights: expected a file or a model folder, found no"
    ):
        build_model(one_pass(name="embedding", weights=str(tmp_path / "nothing.pth")))


@pytest.mark.parametrize("head", ["random", "file"])
def test_a_trained_head_in_the_weights_of_a_detector_is_not_left_out_in_silence(
    head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = build_model(one_pass(name="embedding", dim=8, width=8, weights="random"))
    state = {f"roi_heads.embedding_head.{k}": v for k, v in first.describer.head.state_dict().items()}  # type: ignore[union-attr]
    torch.save({"model": state}, tmp_path / "model_final.pth")
    monkeypatch.setattr("objemb.detectors.capabilities.NetworkDetector.unused_head", tmp_path / "model_final.pth")
    weights = "random" if head == "random" else str(tmp_path / "model_final.pth")
    build_model(one_pass(name="embedding", dim=8, width=8, weights=weights))
    said = "model_final.pth: the embedding head that was trained in it is not used" in caplog.text
    assert said == (head == "random")


def test_all_missing_weights_are_reported_at_once(tmp_path: Path) -> None:
    settings = crops(
        backbone={**CNN, "weights": "a/first.pth"},
        regions={"name": "detections", "detector": {**RCNN, "backbone": {**CNN, "weights": "b/second.pth"}}},
    )
    with pytest.raises(MissingWeightsError, match="weights of 2 networks are missing:") as caught:
        build_model(settings)
    assert "describer.regions.detector.backbone.weights: expected a file or a model folder, or one of" in str(
        caught.value
    )
    assert "found no file b/second.pth" in str(caught.value)
    assert "describer.backbone.weights: expected a file" in str(caught.value)
    with pytest.raises(MissingWeightsError, match="elsewhere"), missing_together(crops()):
        raise MissingWeightsError("elsewhere")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(build_model(crops(regions={"name": "detections", "detector": RCNN})), tmp_path / "model")
    return tmp_path / "model"


def edit(folder: Path, change: Any) -> None:
    card = json.loads((folder / "model.json").read_text())
    change(card["settings"], card)
    (folder / "model.json").write_text(json.dumps(card))


def stored_boxes(settings: dict[str, Any], card: dict[str, Any]) -> None:
    settings["describer"]["regions"]["detector"] = {"name": "stored_boxes", "file": "/etc/passwd"}


STRANGE = {
    "a file": lambda s, c: s["describer"]["backbone"].update(weights="/etc/passwd"),
    "published weights": lambda s, c: s["describer"]["regions"]["detector"]["backbone"].update(weights="DEFAULT"),
    "in a list": lambda s, c: s["describer"].update(backbone=[{**NARROW, "weights": "/etc/passwd"}]),
    "in a re-ranker": lambda s, c: s.update(
        rerank=[{"name": "region_rerank", "regions": {"name": "detections", "detector": {**RCNN, "weights": "/x"}}}]
    ),
    "boxes of a file": stored_boxes,
    "a config of Detectron2": lambda s, c: s["describer"]["regions"].update(
        detector={"name": "detectron2_rcnn", "config": "../../etc/passwd"}
    ),
}


@pytest.mark.parametrize("case", STRANGE)
def test_a_folder_of_a_stranger_reads_and_fetches_nothing_outside(
    folder: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(folder, STRANGE[case])
    for name in ("objemb.registry.build", "objemb.weights.locate.fetch", "objemb.weights.read.read_weights"):
        monkeypatch.setattr(name, lambda *_: pytest.fail("something was read"))
    with pytest.raises(ArtefactMismatchError, match="expected a self-contained model folder, found '"):
        load_model(folder)


@pytest.mark.parametrize(
    "card",
    [
        {"settings": []},
        {"fingerprint": {}},
        {"files": "x"},
        {"files": {"weights.safetensors": 3}},
        {"provenance": []},
        {"provenance": {"weights": {"describer.backbone.weights": "x"}}},
        {"provenance": {"training": 3}},
        {"provenance": {"training": {"learned": "all"}}},
        {"fitted": {"pooling": 1}},
    ],
)
def test_odd_cards_are_refused(folder: Path, card: dict[str, Any]) -> None:
    edit(folder, lambda settings, whole: whole.update(card))
    with pytest.raises(ArtefactMismatchError, match=f"expected a card of a model, found '{next(iter(card))}"):
        load_model(folder)


def test_a_folder_carries_no_networks_of_re_rankers(tmp_path: Path) -> None:
    detector = {**RCNN, "weights": "random"}
    steps = [{"name": "region_rerank", "regions": {"name": "detections", "detector": detector}}]
    model = build_model({**crops(), "rerank": steps})
    with pytest.raises(ValueError, match=r"without networks, found rerank\[0\].regions.detector .*give it to --rerank"):
        save_model(model, tmp_path / "m")


def test_every_method_that_comes_along_names_its_networks() -> None:
    named = {n.key for n in networks(load_config("rmac_proposals"))}
    assert named == {"describer.backbone", "describer.regions.detector"}
    assert build(Backbone, {**NARROW, "weights": "random"}).channels == build(Backbone, NARROW).channels


def test_an_invalid_value_is_refused(model: Model) -> None:
    for wrong in (True, 3, "", " "):
        with pytest.raises(ValueError, match="weights"):
            build_model(crops(backbone={**NARROW, "weights": wrong}))
    assert model.untrained == ["describer.backbone"]
