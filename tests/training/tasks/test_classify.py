from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from objemb import registry
from objemb.backbones.narrow_resnet import NarrowResnet
from objemb.checks import TrainingError
from objemb.datasets.scenes import SceneSettings
from objemb.describers.pooled_regions import PooledRegions
from objemb.extractors.map import Map
from objemb.models import load_model
from objemb.pooling.mean import Mean
from objemb.regions.whole_image import WholeImage
from objemb.structures import Regions
from objemb.training.data.base import Example, Examples
from objemb.training.data.scenes import SceneExamples
from objemb.training.runner import fit
from objemb.training.task import build_task
from objemb.training.tasks.classify import Classify, train_mode
from tests import small_settings
from tests.training.small import settings

MINIMAL = {
    "describer": small_settings.CROPS,
    "data": small_settings.SCENES,
    "validation": small_settings.SCENES,
    "whiten": {"dim": 2},
}

SCENES = {"name": "scenes", "count": 6, "families": 2, "cache": True, "settings": {"size": 48}}
TASK: dict[str, Any] = {
    "name": "classify",
    "describer": {
        "name": "pooled_regions",
        "regions": {"name": "detections"},
        "backbone": {"name": "narrow_resnet", "width": 4, "blocks": [1, 1, 1, 1]},
        "extractor": {"name": "crop", "size": 32},
        "pooling": {"name": "gem"},
    },
    "data": SCENES,
    "validation": {**SCENES, "split": "val"},
    "crops": 8,
    "whiten": {"dim": 4, "boxes": 12},
}


def task(**changes: Any) -> Classify:
    return build_task({**TASK, **changes})  # type: ignore[return-value]


def test_a_run_learns_and_leaves_a_whitened_model(tmp_path: Path) -> None:
    learner = task()
    before = {k: v.clone() for k, v in learner.state_dict().items()}
    metrics = fit(learner, settings(steps=3, batch=4, warmup=0), tmp_path / "run", quiet=True)
    assert metrics["last"].keys() == {"step", "mAP", "P@1"}
    changed = {k for k, v in learner.state_dict().items() if not torch.equal(v, before[k])}
    assert "prototypes" in changed
    assert any("running_mean" in k for k in changed), "norms are trained as well"
    model = load_model(tmp_path / "run" / "model")
    assert model.dim == 4
    assert "training examples" in model.describer.whitening.fitted_on
    assert model.settings["describer"]["backbone"]["width"] == 4
    example = SceneExamples(split="val", count=2, families=2, settings=SceneSettings(size=48))[0]
    whole = model.describe(example.photo)
    assert len(whole) == 1
    boxes = [tuple(box) for box in example.regions.boxes.tolist()]
    assert model.query(example.photo, boxes).vectors.shape == (len(boxes), 4)


def test_crops_are_what_the_describer_sees() -> None:
    """Without augmentation, and with norms in eval mode, training computes the describer's own vectors."""
    learner = task(crops=100, box_jitter=0.0, colour_jitter=0.0)
    batch = [learner.examples[i] for i in range(3)]
    crops, labels = learner._crops(batch)
    with torch.no_grad():
        vectors = learner._vectors(crops)
    described = learner.describer.describe([e.photo for e in batch], [e.regions for e in batch])
    torch.testing.assert_close(vectors, torch.cat([torch.as_tensor(d.vectors) for d in described]))
    assert labels.tolist() == torch.cat([e.instances for e in batch]).tolist()


def test_crops_are_drawn_from_all_boxes_that_have_an_identity() -> None:
    torch.manual_seed(0)
    learner = task(crops=4)
    batch = [learner.examples[i] for i in range(6)]
    boxes = sum(len(e.regions) for e in batch)
    assert boxes > 4
    drawn = [learner._crops(batch)[1].tolist() for _ in range(20)]
    assert all(len(d) == 4 for d in drawn)
    assert len({tuple(d) for d in drawn}) > 1
    unknown = Regions(batch[0].regions.boxes, batch[0].regions.size)
    assert learner._crops([Example(batch[0].photo, unknown)])[0] == []


def test_a_batch_without_boxes_costs_nothing() -> None:
    learner = task()
    photo = learner.examples[0].photo
    (loss,) = learner.losses([Example(photo, Regions.empty(photo.size))]).values()
    assert loss.item() == 0
    loss.backward()


def test_only_backbone_and_prototypes_learn() -> None:
    learner = task()
    learned = {".".join(k.split(".")[:2]) for k, p in learner.named_parameters() if p.requires_grad}
    assert learned == {"prototypes", "describer.backbone"}
    learner.losses([learner.examples[0]])
    assert not any(m.training for m in learner.describer.modules())


def test_without_validation_and_whitening() -> None:
    learner = task(validation=None, whiten=None)
    assert learner.validate() == {}
    assert learner.pictures() == {}
    assert learner.model().dim == 32


def test_pictures_follow_a_validation() -> None:
    learner = task().eval()
    with torch.no_grad():
        learner.validate()
    picture = learner.pictures()["neighbours"]
    assert picture.dtype == torch.uint8
    assert picture.shape[0] == 3


def test_what_cannot_be_learned_is_named() -> None:
    describer = PooledRegions(
        regions=WholeImage(), backbone=NarrowResnet(width=2), extractor=Map(size=32), pooling=Mean()
    )
    data = registry.build(Examples, SCENES)
    with pytest.raises(TypeError, match="describer: expected pooled_regions with the extractor crop, found Map"):
        Classify(describer=describer, data=data)
    with pytest.raises(ValueError, match=r"task.whiten: unknown key 'dims' \(did you mean 'dim'\?\); known keys of"):
        registry.resolve("training.tasks", TASK | {"whiten": {"dims": 3}}, "task")
    data.instances = ()
    with pytest.raises(ValueError, match="data: expected boxes of at least 2 instances, found 0"):
        task(data=data)


@pytest.mark.parametrize(
    ("whiten", "message"),
    [
        ({"dim": 16}, r"whiten: dim: expected at most 15, as 16 boxes give vectors of length 32, found 16"),
        ({"dim": 16, "boxes": 2}, r"whiten: dim: expected at most [1-5], as [2-6] boxes give vectors of length 32"),
        ({"dim": 0}, "whiten: dim: expected an integer of 1 or more, found 0"),
        ({"boxes": 1}, "whiten: boxes: expected an integer of 2 or more, found 1"),
        ({"power": 2}, "whiten: power: expected a number from 0 to 1, found 2"),
    ],
)
def test_a_whitening_that_cannot_be_is_refused_before_the_first_step(
    tmp_path: Path, whiten: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit(task(whiten=whiten), settings(steps=3, batch=4), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_whitening_is_no_longer_than_the_vectors() -> None:
    with pytest.raises(
        ValueError, match=r"whiten: dim: expected at most 32, as 3[4-9] boxes give vectors of length 32"
    ):
        task(whiten={"dim": 33}, data={**SCENES, "count": 30}).check()


def test_another_whitening_needs_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the vectors turn out to vary in fewer directions than any count could tell."""
    monkeypatch.setattr(Classify, "check", lambda self: None)
    with pytest.raises(TrainingError, match=r"dim: expected 1 to \d+ .*also with changed settings of 'whiten'"):
        fit(task(whiten={"dim": 16}), settings(steps=3, batch=4), tmp_path / "run", quiet=True)
    seen: list[int] = []
    monkeypatch.setattr(Classify, "losses", lambda self, batch: seen.append(len(batch)))
    fit(task(whiten={"dim": 3, "boxes": 12}), settings(steps=3, batch=4), tmp_path / "run", quiet=True)
    assert load_model(tmp_path / "run" / "model").dim == 3
    assert seen == []


def test_boxes_without_an_identity_teach_nothing() -> None:
    class Nameless(SceneExamples):
        def identities(self, number: int) -> torch.Tensor:
            return torch.full_like(super().identities(number), -1)

    learner = task()
    learner.examples = Nameless(count=3, families=2, settings=SceneSettings(size=48))
    with pytest.raises(ValueError, match="data: expected boxes of known identity, found none in any of the 3"):
        learner.check()


def test_norms_learn_within_and_only_within() -> None:
    torch.manual_seed(0)
    network = NarrowResnet(width=2, blocks=[1, 1, 1, 1], layer="layer1")
    network.train()
    before = network.network.bn1.running_mean.clone()
    network(torch.rand(2, 3, 32, 32))
    assert torch.equal(before, network.network.bn1.running_mean)
    with train_mode(network):
        network(torch.rand(2, 3, 32, 32))
    assert not torch.equal(before, network.network.bn1.running_mean)
    assert not any(m.training for m in network.modules())
