from __future__ import annotations

import fnmatch
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from objemb.config import load_training_config
from objemb.detectors.base import Detector
from objemb.detectors.capabilities import NetworkDetector
from objemb.models import load_model
from objemb.registry import build
from objemb.training.data.base import Example, Examples
from objemb.training.runner import fit
from objemb.training.settings import RunSettings
from objemb.training.task import build_task
from objemb.training.tasks.detect import Detect
from tests import small_settings
from tests.tiny import random_photo
from tests.training.runs import same

MINIMAL = {"describer": small_settings.STUDENT, "data": small_settings.SCENES, "validation": small_settings.SCENES}

TRUNK = {"name": "narrow_resnet", "width": 4, "blocks": [1, 1, 1, 1]}
DETECTOR = {
    "name": "faster_rcnn",
    "backbone": TRUNK,
    "pyramid_strides": [8, 16],
    "channels": 8,
    "box_width": 16,
    "anchor_sizes": [16, 32, 48],
    "min_size": 64,
    "max_size": 64,
    "score_threshold": 0.01,
}
SMALL = {"size": 64, "objects_per_scene": [1, 2]}
SCENES = {"name": "scenes", "count": 6, "families": 2, "settings": SMALL}
SILHOUETTES = {**SCENES, "settings": {**SMALL, "category": "silhouette"}}


def settings(detector: dict[str, Any] | None = None, **arguments: Any) -> dict[str, Any]:
    describer = {
        "name": "pooled_regions",
        "regions": {"name": "detections", "detector": {**DETECTOR, **(detector or {})}, "min_score": 0.05},
        "backbone": TRUNK,
        "extractor": {"name": "map", "size": 64},
        "pooling": {"name": "mean"},
    }
    validation = {**SCENES, "split": "val", "count": 3}
    return {"name": "detect", "describer": describer, "data": SCENES, "validation": validation, **arguments}


def task(**arguments: Any) -> Detect:
    return build_task(settings(**arguments))  # type: ignore[return-value]


def test_the_detector_alone_learns() -> None:
    learner = task()
    before = {k: v.clone() for k, v in learner.describer.state_dict().items()}
    batch = [learner.examples[n] for n in range(6)]
    optimizer = torch.optim.Adam([p for g in learner.parameter_groups() for p in g["params"]], 3e-3)
    history = []
    for step in range(10):
        torch.manual_seed(step)
        loss = torch.stack(list(learner.losses(batch).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
    assert sum(history[-3:]) < 0.9 * sum(history[:3])
    after = learner.describer.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed
    assert all(k.startswith("regions.detector.") for k in changed)
    assert not any("running" in k for k in changed), "normalisation keeps its statistics"


def test_factors_say_what_learns_how_fast() -> None:
    factors = {"*.body.*": 0.1, "*.body.network.layer1.*": 0}
    learner = task(factors=factors)
    names = {id(p): name for name, p in learner.detector.named_parameters()}
    found = {g["factor"]: [names[id(p)] for p in g["params"]] for g in learner.parameter_groups()}
    assert set(found) == {1.0, 0.1}
    assert all(".body." in name and ".layer1." not in name for name in found[0.1])
    assert not any(".body." in name for name in found[1.0])
    still = [name for name, p in learner.detector.named_parameters() if not p.requires_grad]
    assert still
    assert all(".layer1." in name for name in still)


def test_what_a_level_is_computed_from_may_stay_as_it_is() -> None:
    learner = task(frozen="trunk8", factors={"*.body.*": 0.1})
    still = {name for name, p in learner.detector.named_parameters() if not p.requires_grad}
    parts = ("conv1", "bn1", "layer1", "layer2")
    assert {name.removeprefix("network.backbone.body.network.").split(".")[0] for name in still} == set(parts)
    learned = {id(p) for group in learner.parameter_groups() for p in group["params"]}
    assert learned == {id(p) for p in learner.detector.parameters() if p.requires_grad}
    with pytest.raises(ValueError, match=r"frozen: expected one of .*'trunk16', found 'trunk2'"):
        task(frozen="trunk2")


def _sizes(examples: Examples) -> set[str]:
    """Names of AP by the sizes that the true boxes have."""
    sides = [
        (torch.as_tensor(e.regions.boxes)[:, 2:] - torch.as_tensor(e.regions.boxes)[:, :2]).amax(dim=1)
        / max(e.photo.size)
        for e in map(examples.__getitem__, range(len(examples)))
    ]
    ends = {"under_9": 0.09375, "9_19": 0.1875, "19_38": 0.375, "38_75": 0.75, "over_75": 2}
    starts = (0, *ends.values())
    return {
        f"AP_{key}"
        for (key, end), start in zip(ends.items(), starts, strict=False)
        if any(((start <= side) & (side < end)).any() for side in sides)
    }


def test_figures_and_pictures_are_of_the_validation_set() -> None:
    learner = task()
    assert learner.pictures() == {}
    figures = learner.validate()
    assert {"AP", "AP50", "AP75", *_sizes(learner.validation)} == set(figures)
    assert all(0 <= v <= 1 for v in figures.values())
    assert learner.pictures()["boxes"].shape == (3, 320, 3 * 320)
    assert task(validation=None).validate() == {}


def test_a_run_leaves_a_model_from_which_another_starts(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps({"task": settings()}), encoding="utf-8")
    config = load_training_config(file)
    run = RunSettings(steps=2, batch=2, lr=1e-3, workers=0)
    metrics = fit(build_task(config["task"]), run, tmp_path / "run", quiet=True)
    assert "AP50" in metrics["last"]
    model = load_model(tmp_path / "run" / "model")
    again = task(detector={"weights": tmp_path / "run" / "model"})
    for name, value in model.detector.state_dict().items():  # type: ignore[union-attr]
        assert torch.equal(again.detector.state_dict()[name], value)
    photo = random_photo(64, 64)
    assert len(model.describe(photo)) >= 1


def test_other_classes_on_the_features_of_a_detector(tmp_path: Path) -> None:
    first = task(detector={"num_classes": 1})
    torch.save(first.detector.state_dict(), tmp_path / "a.pth")
    data = SILHOUETTES
    classes = build(Examples, data).classes
    other = {"num_classes": len(classes), "weights": tmp_path / "a.pth", "new_classes": True}
    second = task(detector=other, data=data, validation=None)
    trunk = second.detector.state_dict()
    for name, value in first.detector.state_dict().items():
        assert "box_predictor" in name or torch.equal(trunk[name], value)
    torch.stack(list(second.losses([second.examples[0]]).values())).sum().backward()


def test_mistakes_are_named() -> None:
    plain = settings()["describer"] | {"regions": {"name": "whole_image"}}
    with pytest.raises(TypeError, match="expected one with a detector that is a network, found PooledRegions"):
        task(describer=plain)
    with pytest.raises(ValueError, match=r"data: expected the 3 classes .* found 1; set its num_classes=1"):
        task(detector={"num_classes": 3})
    names = list(build(Examples, SILHOUETTES).classes)
    data = SILHOUETTES
    with pytest.raises(ValueError, match=f"with {names[1]!r} as number 0, found {names[0]!r}"):
        task(detector={"classes": names[1::-1] + names[2:]}, data=data, validation=None)
    with pytest.raises(ValueError, match=r"factors: expected patterns of 'network\.backbone\.body'.*found 'trunk"):
        task(factors={"trunk.*": 0.1})
    with pytest.raises(ValueError, match="at least one parameter to train"):
        task(factors={"*": 0})
    with pytest.raises(ValueError, match="flip: expected true or false"):
        task(flip="no")


def test_the_configs_that_come_with_it() -> None:
    scenes = load_training_config("detect_scenes")
    RunSettings.of(scenes["run"])
    learner = build_task(scenes["task"])
    assert isinstance(learner, Detect)
    assert learner.detector.pyramid == ("0", "1")
    coco = load_training_config("detect_coco", ["data.file=a.json", "validation.name=coco", "validation.file=b.json"])
    RunSettings.of(coco["run"])
    detector = coco["task"]["describer"]["regions"]["detector"] | {"weights": None}
    parameters = dict(build(Detector, detector).named_parameters())
    for pattern in coco["task"]["factors"]:
        assert fnmatch.filter(parameters, pattern)
    with pytest.raises(ValueError, match="expected the key 'file'"):
        load_training_config("detect_coco")


@pytest.mark.parametrize("part", ["data", "validation"])
def test_data_without_a_single_box_are_refused(part: str, tmp_path: Path) -> None:
    random_picture = random_photo(20, 30).pixels.transpose(1, 2, 0)
    Image.fromarray(random_picture).save(tmp_path / "a.png")
    data = {
        "images": [{"id": 1, "file_name": "a.png", "width": 30, "height": 20}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [31, 0, 5, 5]}],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(data), encoding="utf-8")
    source = {"name": "coco", "file": str(tmp_path / "instances.json"), "class_agnostic": True}
    with pytest.raises(ValueError, match=f"{part}: expected photos with boxes, found no usable box in any of the 1"):
        task(detector={"num_classes": 1}, **{part: source})


def test_proposals_are_trained_by_themselves_on_the_trunk_of_a_retrieval_network(tmp_path: Path) -> None:
    describer = {
        "name": "pooled_regions",
        "regions": {"name": "rpn_proposals", "max_regions": 4},
        "backbone": {"name": "detector_trunk", "detector": DETECTOR},
        "extractor": {"name": "map", "size": 64},
        "pooling": {"name": "max"},
    }
    learner: Detect = task(describer=describer, only_proposals=True, frozen="trunk16")  # type: ignore[assignment]
    trained = {name for name, p in learner.detector.named_parameters() if p.requires_grad}
    assert trained
    assert all(".rpn." in f".{name}" or ".fpn." in f".{name}" for name in trained)
    before = {k: v.clone() for k, v in learner.describer.state_dict().items()}
    metrics = fit(learner, RunSettings(steps=2, batch=2, lr=1e-3, workers=0), tmp_path / "run", quiet=True)
    assert metrics["last"].keys() == {"step", "recall@16", "recall@64"}
    assert 0 <= metrics["last"]["recall@16"] <= metrics["last"]["recall@64"] <= 1
    after = load_model(tmp_path / "run" / "model")
    changed = {k for k, v in after.describer.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {f"backbone.detector.{name}" for name in trained}
    settings = {**DETECTOR, "weights": str(tmp_path / "run" / "model")}
    again = build(Detector, settings).state_dict()
    assert all(torch.equal(v, after.describer.detector.state_dict()[k]) for k, v in again.items())
    with pytest.raises(TypeError, match=r"detector: expected one whose proposals can be trained .* found faster_rcnn"):
        NetworkDetector.proposal_losses(
            learner.detector, learner.detector.normalised(torch.zeros(1, 3, 64, 64)), {}, []
        )


def test_interrupted_training_of_proposals_ends_like_one_that_was_not(tmp_path: Path) -> None:
    """Anchors are sampled at random, by generators that depend on the step alone."""
    trunk = {"name": "detector_trunk", "detector": {**DETECTOR, "backbone": TRUNK}}
    describer = {**settings()["describer"], "regions": {"name": "rpn_proposals", "max_regions": 4}, "backbone": trunk}
    whole, broken, resumed = (
        task(describer=describer, only_proposals=True, frozen="trunk16", validation=None) for _ in range(3)
    )
    run = RunSettings(steps=3, batch=2, lr=1e-2, workers=0, warmup=0, checkpoint_every=1)
    fit(whole, run, tmp_path / "whole", quiet=True)
    losses, calls = broken.losses, list[int]()

    def dying(batch: Sequence[Example]) -> dict[str, Tensor]:
        calls.append(len(batch))
        if len(calls) == 3:
            raise RuntimeError("killed")
        return losses(batch)

    broken.losses = dying  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="killed"):
        fit(broken, run, tmp_path / "run", quiet=True)
    fit(resumed, run, tmp_path / "run", quiet=True)
    assert same(resumed.state_dict(), whole.state_dict())
    assert not same(resumed.state_dict(), task(describer=describer, only_proposals=True).state_dict())
