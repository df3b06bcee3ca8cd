from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from objemb.checks import TrainingError
from objemb.config import load_training_config
from objemb.losses.distillation import cosine_loss, l2_loss, relational_loss
from objemb.models import load_model
from objemb.ops.ridge import ridge_map
from objemb.structures import Regions
from objemb.training.data.base import Example, Examples
from objemb.training.runner import fit
from objemb.training.settings import RunSettings
from objemb.training.tasks.distill import Distill
from tests import small_settings
from tests.tiny import random_photo
from tests.training.learners import STUDENT, TEACHER, Noisy, batch, task

MINIMAL = {
    "describer": small_settings.STUDENT,
    "teacher": small_settings.CROPS,
    "data": small_settings.SCENES,
    "validation": small_settings.SCENES,
}

EXAMPLES = Noisy()


def run(**changes: Any) -> RunSettings:
    return RunSettings.of({"steps": 4, "batch": 2, "lr": 0.01, "workers": 0, "accelerator": "cpu", **changes})


def state(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def step(distill: Distill, examples: list[Example]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    losses = distill.losses(examples)
    torch.stack([*losses.values()]).sum().backward()
    return losses


def test_the_loss_is_that_of_the_vectors_of_both() -> None:
    weights = {"cosine": 1.0, "l2": 0.5, "relational": 0.1}
    distill = task(loss=weights, guidance={"whole_weight": 0.25})
    examples = batch(EXAMPLES)
    found = distill.losses(examples)
    boxes, counts = [], []
    for number in (0, 2, 1, 3):  # in groups of one shape
        example = examples[number]
        kept = Regions(example.regions.boxes[:-1], example.photo.size)  # the last box has no area
        boxes.append((example.photo, Regions.cat([kept, Regions.whole(example.photo.size)])))
        counts += [1.0] * len(kept) + [0.25]
    teacher = torch.cat(distill.teacher.vectors(*zip(*boxes, strict=True)))  # type: ignore[arg-type]
    student = torch.cat([torch.as_tensor(d.vectors) for d in distill.describer.describe(*zip(*boxes, strict=True))])  # type: ignore[arg-type]
    expected = {
        "cosine": cosine_loss(student, teacher, torch.tensor(counts)),
        "relational": 0.1 * relational_loss(student, teacher, torch.tensor(counts)),
    }
    assert set(found) == set(weights)
    for name, value in expected.items():
        assert float(found[name].detach()) == pytest.approx(float(value), abs=1e-5)
    detector = distill.describer.detector
    lengths = []
    for photo, regions in boxes:
        seen = detector.preprocess([photo])
        lengths.append(distill.describer.embed_boxes([photo], [regions], seen, detector.features(seen), unit=False))
    raw = l2_loss(torch.cat(lengths), teacher, torch.tensor(counts))
    assert float(found["l2"].detach()) == pytest.approx(0.5 * float(raw.detach()), rel=1e-4)


def test_only_the_head_learns(tmp_path: Path) -> None:
    distill = task()
    detector, head = state(distill.describer.detector), state(distill.describer.head)
    fit(distill, run(steps=3, ema=0.9), tmp_path / "run", quiet=True)
    after = distill.describer.detector.state_dict()
    assert all(torch.equal(after[name], value) for name, value in detector.items()), "bit for bit"
    assert any(not torch.equal(distill.describer.head.state_dict()[n], v) for n, v in head.items())
    assert len(distill.parameter_groups()) == 1


def test_no_gradient_reaches_the_detector_or_the_teacher() -> None:
    distill = task()
    step(distill, batch(EXAMPLES))
    assert all(p.grad is None for p in distill.describer.detector.parameters())
    assert all(p.grad is not None for p in distill.describer.head.parameters())
    assert not any("teacher" in name for name in distill.state_dict())


@pytest.mark.parametrize("train", ["head+trunk", "joint"])
def test_the_detector_learns_too(train: str) -> None:
    distill = task(train=train, factors={"*": 0.5})
    losses = step(distill, batch(EXAMPLES))
    groups = distill.parameter_groups()
    assert [g["factor"] for g in groups] == [1.0, 0.5]
    assert {id(p) for p in groups[1]["params"]} == {id(p) for p in distill.describer.detector.parameters()}
    trunk = [p for n, p in distill.describer.detector.named_parameters() if "backbone" in n]
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in trunk)
    assert (len(losses) > 1) == (train == "joint")
    assert all(torch.isfinite(v) for v in losses.values())


def test_joint_losses_are_those_of_the_detector_and_lambda_times_those_of_the_vectors() -> None:
    examples = batch(EXAMPLES, (1, 3))  # one shape
    distill = task(train="joint", embedding_weight=3.0)
    torch.manual_seed(0)
    found = distill.losses(examples)
    torch.manual_seed(0)
    alone = task().losses(examples)
    assert float(found["cosine"].detach()) == pytest.approx(3 * float(alone["cosine"].detach()), rel=1e-4)
    detector = distill.describer.detector
    photos = [e.photo for e in examples]
    seen = detector.preprocess(photos)
    torch.manual_seed(0)
    torch.randint(8, (2,))
    expected = detector.losses(seen, detector.features(seen), [e.regions for e in examples], photos)
    assert {n: float(v.detach()) for n, v in found.items() if n != "cosine"} == pytest.approx(
        {n: float(v.detach()) for n, v in expected.items()}, rel=1e-4
    )


def test_some_parameters_of_the_detector() -> None:
    distill = task(train="head+trunk", factors={"*": 0, "network.backbone.fpn.*": 0.1})
    trained = {n for n, p in distill.describer.detector.named_parameters() if p.requires_grad}
    assert trained
    assert all(".fpn." in name for name in trained)
    with pytest.raises(ValueError, match=r"factors: expected patterns of .*'network.backbone.fpn'.* found 'neck"):
        task(train="joint", factors={"neck.*": 1})


@pytest.mark.parametrize("sources", [["jittered"], ["detections"], ["proposals"], ["ground_truth", "proposals"]])
def test_every_guidance(sources: list[str]) -> None:
    losses = step(task(guidance={"sources": sources}), batch(EXAMPLES))
    assert torch.isfinite(losses["cosine"])
    assert losses["cosine"] > 0


def test_a_batch_without_boxes() -> None:
    empty = [Example(random_photo(40, 60, seed=n), Regions.empty((40, 60))) for n in range(2)]
    for arguments in ({}, {"train": "joint"}, {"loss": {"cosine": 1, "l2": 1, "relational": 1}}):
        distill = task(guidance={"whole_image": False}, **arguments)
        losses = step(distill, empty)
        embedding = [v for n, v in losses.items() if n in ("cosine", "l2", "relational")]
        assert [float(v.detach()) for v in embedding] == [0.0] * len(embedding)
        grads = [p.grad for p in distill.describer.head.parameters()]
        assert all(g is None or g.abs().max() == 0 for g in grads)


def test_a_photo_with_500_boxes() -> None:
    boxes = torch.tensor([[float(n % 30), n % 20, n % 30 + 25, n % 20 + 15] for n in range(500)])
    crowd = Example(random_photo(40, 60, id="crowd"), Regions(boxes, (40, 60)))
    distill = task(guidance={"max_boxes": 16})
    assert torch.isfinite(step(distill, [crowd])["cosine"])
    everything = task(guidance={"max_boxes": 1000})
    assert torch.isfinite(step(everything, [crowd])["cosine"])


def test_vectors_that_are_not_finite_stop_the_run_with_the_names_of_the_photos(tmp_path: Path) -> None:
    distill = task()
    with torch.no_grad():
        distill.describer.head.project.bias.fill_(float("nan"))
    with pytest.raises(TrainingError, match="noise"):
        fit(distill, run(), tmp_path / "run", quiet=True)
    assert set(json.loads((tmp_path / "run" / "nonfinite.json").read_text())["images"]) <= {
        f"noise {n}" for n in range(4)
    }


def test_targets_that_were_computed_ahead_are_those_that_are_asked_for(tmp_path: Path) -> None:
    for source in ("jittered", "detections"):
        folder, guidance = tmp_path / source, {"sources": [source], "variants": 2}
        ahead = task(guidance=guidance, precompute=4, cache=folder)
        first = step(ahead, batch(EXAMPLES, (0,)))
        files = set(folder.rglob("*.safetensors"))
        assert len(files) >= 4
        ahead.teacher.compute = None  # type: ignore[method-assign, assignment]  # nothing is left to compute
        for number in range(1, 4):
            step(ahead, batch(EXAMPLES, (number,)))
        assert set(folder.rglob("*.safetensors")) == files
        lazily = step(task(guidance=guidance), batch(EXAMPLES, (0,)))
        assert torch.equal(first["cosine"], lazily["cosine"]), "a target is the same, computed ahead or not"


def test_detections_that_will_change_are_not_described_ahead() -> None:
    with pytest.raises(ValueError, match="precompute: expected boxes that do not change"):
        task(guidance={"sources": ["detections"]}, train="joint", precompute=2)


def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path: Path) -> None:
    """Stopped after two of four steps, with the cache of the teacher gone."""

    class Stop(Noisy):
        left = 4

        def __getitem__(self, number: int) -> Example:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            return super().__getitem__(number)

    arguments: dict[str, Any] = {
        "guidance": {"sources": ["jittered", "proposals"], "max_boxes": 2},
        "train": "joint",
    }
    settings = run(checkpoint_every=1)
    whole = task(**arguments)
    fit(whole, settings, tmp_path / "whole", quiet=True)
    with pytest.raises(KeyboardInterrupt):
        fit(task(Stop(), **arguments), settings, tmp_path / "stopped", quiet=True)
    again = task(**arguments)
    fit(again, settings, tmp_path / "stopped", quiet=True)
    assert all(torch.equal(again.state_dict()[name], value) for name, value in whole.state_dict().items())


def test_the_last_layer_may_start_from_a_regression(tmp_path: Path) -> None:
    distill = task(start="regression", guidance={"whole_image": False}, start_strength=0.1)
    before = state(distill)
    pooled, targets = [], []
    for example in batch(EXAMPLES):
        boxes = Regions(example.regions.boxes[:-1], example.photo.size)  # the last one has no area
        seen = distill.describer.detector.preprocess([example.photo])
        pooled.append(distill.describer.embed_boxes([example.photo], [boxes], seen, unit=False, projected=False))
        targets += distill.teacher.vectors([example.photo], [boxes])
    weight, bias = ridge_map(torch.cat(pooled), torch.cat(targets), 0.1).weight_and_bias()
    torch.manual_seed(0)
    assert distill.begin()
    layer = distill.describer.head.expect_linear()
    assert torch.allclose(layer.weight, weight, atol=1e-4)
    assert torch.allclose(layer.bias, bias, atol=1e-4)
    changed = {name for name, value in distill.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"describer.head.project.weight", "describer.head.project.bias"}
    assert not task().begin()


def test_a_regression_ends_with_enough_boxes() -> None:
    class Counted(Noisy):
        asked = 0

        def __getitem__(self, number: int) -> Example:
            self.asked += 1
            return Noisy()[number % 4]

    examples = Counted(count=50)
    assert task(examples, start="regression", start_boxes=5, guidance={"max_boxes": 2}).begin()
    assert 2 <= examples.asked <= 5, "two boxes of most photos, and the photo itself"


def test_a_regression_needs_a_linear_layer() -> None:
    network = {"name": "narrow_resnet", "width": 2, "blocks": [1, 1, 1, 1]}
    head = {"name": "tail", "backbone": network, "pooling": {"name": "mean"}, "dim": None, "samples": 5}
    with pytest.raises(ValueError, match=r"head: expected one with a linear layer at its end .* found none"):
        task(describer=STUDENT | {"head": head}, teacher=TEACHER | {"backbone": network}, start="regression")


def test_a_regression_needs_boxes() -> None:
    distill = task(Noisy(count=1), start="regression", guidance={"whole_image": False})
    with pytest.raises(ValueError, match="data: expected at least 2 boxes for start=regression, found 0"):
        distill.begin()


def test_a_run_that_began_with_a_regression_goes_on_without_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = run(ema=0.9, checkpoint_every=1)
    whole = task(start="regression")
    fit(whole, settings, tmp_path / "whole", quiet=True)

    def dies(self: Distill, examples: list[Example]) -> dict[str, Tensor]:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Distill, "losses", dies)
        with pytest.raises(RuntimeError, match="killed"):
            fit(task(start="regression"), settings, tmp_path / "killed", quiet=True)
    monkeypatch.setattr(Distill, "begin", lambda self: pytest.fail("it has begun already"))
    again = task(start="regression")
    fit(again, settings, tmp_path / "killed", quiet=True)
    assert all(torch.equal(again.state_dict()[name], value) for name, value in whole.state_dict().items())


def test_the_student_learns_to_follow() -> None:
    distill = task(guidance={"sources": ["ground_truth"]})
    examples = batch(EXAMPLES)
    optimizer = torch.optim.AdamW(distill.describer.head.parameters(), lr=0.01)
    values = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = distill.losses(examples)["cosine"]
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] < 0.5 * values[0]


@pytest.mark.parametrize(
    "network",
    [
        {"name": "narrow_resnet", "width": 2, "blocks": [1, 1, 1, 1]},
        {"name": "timm_net", "arch": "test_efficientnet", "weights": "random"},
    ],
    ids=["narrow_resnet", "timm_net"],
)
def test_the_head_may_start_from_the_teachers_layers(network: dict[str, Any]) -> None:
    if network["name"] == "timm_net":
        pytest.importorskip("timm")
    head = {"name": "tail", "backbone": network, "pooling": {"name": "mean"}, "dim": None, "samples": 5}
    teacher = TEACHER | {"backbone": network}
    found = {s: task(describer=STUDENT | {"head": head}, teacher=teacher, start=s) for s in ("random", "teacher")}
    wanted = found["teacher"].teacher._describer.backbone.upper(8).state_dict()  # type: ignore[operator, union-attr]
    equal = {
        start: all(torch.equal(value, wanted[name]) for name, value in made.describer.head.upper.state_dict().items())  # type: ignore[operator, union-attr]
        for start, made in found.items()
    }
    assert equal == {"random": False, "teacher": True}
    assert torch.isfinite(step(found["teacher"], batch(EXAMPLES))["cosine"])


def test_figures_of_the_validation() -> None:
    found = task(validation=EXAMPLES).validate()
    assert set(found) >= {"cosine", "cosine_38_75", "cosine_whole_photo", "mAP", "P@1"}
    assert "AP" not in found
    assert task().validate() == {}
    assert {"AP", "AP_38_75"} <= set(task(validation=EXAMPLES, train="joint").validate())

    class Unnamed(Noisy):
        instances = ()

        def __getitem__(self, number: int) -> Example:
            example = super().__getitem__(number)
            return Example(example.photo, Regions(example.regions.boxes, example.photo.size))

    assert "mAP" not in task(validation=Unnamed()).validate()


def test_a_run_leaves_a_student_that_is_a_model_and_a_card(tmp_path: Path) -> None:
    distill = task(validation=EXAMPLES)
    fit(distill, run(), tmp_path / "run", quiet=True)
    folder = tmp_path / "run" / "model"
    assert {f.name for f in folder.iterdir()} >= {"model.json", "report.json", "report.md", "report.png"}
    model = load_model(folder)
    photo = random_photo(40, 60)
    expected = torch.as_tensor(distill.describer.describe([photo])[0].vectors)
    assert torch.allclose(torch.as_tensor(model.describe(photo).vectors), expected, atol=1e-6)
    assert model.provenance["teacher"] == distill.teacher.fingerprint
    card = json.loads((folder / "report.json").read_text())
    assert card["detector"]["same"] is True
    assert card["run"]["steps"] == 4
    model.save(folder, force=True)
    assert load_model(folder).fingerprint == model.fingerprint


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"describer": TEACHER}, TypeError, "expected a one_pass to be trained, found PooledRegions"),
        (
            {"describer": STUDENT | {"head": {"name": "embedding", "dim": 9, "width": 8}}},
            ValueError,
            "expected vectors of the student.s length 9, found 8",
        ),
        ({"teacher": "nowhere"}, FileNotFoundError, "expected a folder made by"),
        ({"loss": {"cosin": 1}}, ValueError, "did you mean 'cosine'"),
        ({"loss": {"cosine": 0}}, ValueError, "expected a weight above 0"),
        ({"loss": "cosine"}, ValueError, r"expected weights such as \{cosine: 1"),
        ({"loss": {"l2": -1}}, ValueError, "loss.l2: expected a number from 0"),
        ({"train": "trunk"}, ValueError, "train: expected one of 'head', 'head\\+trunk', 'joint'"),
        ({"guidance": {"sources": ["truth"]}}, ValueError, "guidance: sources: expected one of"),
        ({"start": "teacher"}, TypeError, "expected one that can start from a teacher's layers"),
        ({"start": "teachers"}, ValueError, "start: expected one of 'random', 'teacher', 'regression'"),
        ({"start_boxes": 1}, ValueError, "start_boxes: expected an integer of 2 or more"),
        ({"start_strength": 0}, ValueError, "start_strength: expected a number above 0"),
    ],
)
def test_wrong_settings(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        task(**arguments)


def test_any_examples_will_do(tmp_path: Path) -> None:
    class One(Examples):
        def __len__(self) -> int:
            return 1

        def __getitem__(self, number: int) -> Example:
            return Example(random_photo(30, 30), Regions.empty((30, 30)))

    fit(task(One()), run(batch=1, steps=1), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "model" / "report.json").exists()


@pytest.mark.parametrize("name", ["distill_scenes", "distill_coco_det", "distill_photos", "distill_products_embedding"])
def test_the_configs_that_come_with_objemb(name: str) -> None:
    config = load_training_config(name, ["run.seed=3"])
    assert config["task"]["name"] == "distill"
    RunSettings.of(config["run"])


def test_the_student_of_products_has_the_detector_of_products() -> None:
    """Weights fit other anchors of the same number, too, and would then find boxes of other sizes than they learned."""
    first = load_training_config("detect_products")["task"]["describer"]["regions"]["detector"]
    then = load_training_config("distill_products")["task"]["describer"]["detector"]
    differ = {key for key in first if first[key] != then[key]}
    assert differ <= {"weights", "box_batch_per_image"}  # where it comes from, and what matters while it learns
