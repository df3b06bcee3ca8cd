from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from objemb.aggregators.sum import Sum
from objemb.datasets.scenes import SceneSettings
from objemb.models import load_model
from objemb.models.build import build_model
from objemb.structures import Regions, VisualWords
from objemb.training.data.base import Example
from objemb.training.data.scenes import SceneExamples
from objemb.training.runner import fit
from objemb.training.task import build_task
from objemb.training.tasks.attend import Attend
from tests import small_settings
from tests.tiny import random_photo
from tests.training.small import settings

SMALL = {
    "name": "regional_attention",
    "regions": {"name": "rmac_grid", "levels": 2},
    "backbone": {"name": "narrow_resnet", "width": 2, "blocks": [1, 1, 1, 1]},
    "extractor": {"name": "map", "size": 48},
    "hidden": 3,
}
MINIMAL = {"describer": SMALL, "data": small_settings.SCENES, "validation": small_settings.SCENES}

SCENES = {"name": "scenes", "count": 6, "families": 2, "cache": True, "settings": {"size": 48}}
TASK: dict[str, Any] = {
    "name": "attend",
    "describer": {
        "name": "regional_attention",
        "regions": {"name": "rmac_grid", "levels": 2},
        "backbone": {"name": "narrow_resnet", "width": 4, "blocks": [1, 1, 1, 1]},
        "extractor": {"name": "map", "size": 64},
        "hidden": 4,
    },
    "data": SCENES,
    "validation": SCENES,
}


def task(**changes: Any) -> Attend:
    return build_task({**TASK, **changes})  # type: ignore[return-value]


def test_a_run_learns_the_attention_alone(tmp_path: Path) -> None:
    learner = task()
    before = {k: v.clone() for k, v in learner.state_dict().items()}
    metrics = fit(learner, settings(steps=3, batch=4, warmup=0), tmp_path / "run", quiet=True)
    assert metrics["last"].keys() == {"step", "accuracy"}
    changed = {k for k, v in learner.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {
        "describer.attention.hidden.weight", "describer.attention.hidden.bias", "describer.attention.out.weight",
        "describer.attention.out.bias", "classes.weight", "classes.bias",
    }  # fmt: skip
    model = load_model(tmp_path / "run" / "model")
    assert isinstance(model.aggregator, Sum)
    assert model.aggregator.weighted
    scores = model.describer.describe([SceneExamples(count=1, families=2, settings=SceneSettings(size=48))[0].photo])[
        0
    ].regions.scores
    assert len(set(scores.tolist())) > 1, "regions no longer count alike"


LOCAL: dict[str, Any] = {
    "name": "attend",
    "describer": {
        "name": "local",
        "local_features": {
            "name": "attentive",
            "backbone": {"name": "narrow_resnet", "width": 4, "blocks": [1, 1, 1, 1]},
            "size": 64,
            "scales": [1.0],
            "hidden": 4,
            "dim": 4,
        },
    },
    "data": SCENES,
    "validation": SCENES,
    "aggregator": {"name": "asmk", "words": 4},
    "fit_photos": 4,
}


def test_a_run_learns_which_local_features_count(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    learner = build_task(LOCAL)
    before = {k: v.clone() for k, v in learner.state_dict().items()}
    fit(learner, settings(steps=3, batch=4, warmup=0), tmp_path / "run", quiet=True)
    changed = {k for k, v in learner.state_dict().items() if k in before and not torch.equal(v, before[k])}
    attention = "describer.local_features.attention."
    assert {k for k in changed if "weight" in k} >= {f"{attention}out.weight", "classes.weight"}
    assert not any(k.startswith("describer.local_features.backbone") for k in changed)
    folder = tmp_path / "run" / "model"
    model = load_model(folder)
    assert all("photos of the training" in part.fitted_on for part in model.pipeline.fitted_parts().values())
    photo = SceneExamples(count=1, families=2, settings=SceneSettings(size=48))[0].photo
    words = model.describe(photo)
    assert isinstance(words, VisualWords)
    assert len(words.words)
    again = build_model(  # another kernel over what was trained
        {
            "describer": {
                **LOCAL["describer"],
                "local_features": {**LOCAL["describer"]["local_features"], "weights": folder},
            },
            "aggregator": {"name": "vlad", "words": 4},
        }
    )
    trained, other = model.describer.state_dict(), again.describer.state_dict()
    assert all(torch.equal(trained[k], v) for k, v in other.items() if "attention" in k or "backbone" in k)


def test_an_aggregator_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="local"):
        build_task({**LOCAL, "aggregator": None})
    with pytest.raises(ValueError, match="asmk"):
        task(aggregator={"name": "asmk"})
    with pytest.raises(TypeError, match="local_features: expected an extractor with a learned attention"):
        build_task({**LOCAL, "describer": {"name": "local", "local_features": {"name": "sift"}}})


def test_the_loss_by_hand() -> None:
    learner = task()
    example = learner.examples[0]
    instances = example.instances.unique()
    seen = learner.describer.attend([example.photo])
    assert seen.regions[0].boxes[0].tolist() == [0, 0, 48, 48]
    mean = (seen.maxima * seen.weights[:, None])[1:].mean(dim=0)  # the grid is summed up, the whole image is not
    scores = torch.log_softmax(learner.classes(mean), dim=0)  # type: ignore[misc]
    wanted = -scores[instances].mean()
    assert learner.losses([example])["classes"].item() == pytest.approx(wanted.item(), rel=1e-5)
    unlabelled = Example(example.photo, Regions.whole(example.photo.size))
    assert learner.losses([example, unlabelled])["classes"].item() == pytest.approx(wanted.item(), rel=1e-5)
    nothing = learner.losses([unlabelled])["classes"]
    nothing.backward()
    assert nothing.item() == 0


def test_the_published_grid_has_seventy_regions() -> None:
    """Level l of 5 has l x (l + 1) squares on a photo as wide as 4 by 3: 2 + 6 + 12 + 20 + 30; what is seen of each
    is worth a 70th."""
    regions = {"name": "rmac_grid", "levels": 5}
    extractor = {"name": "map", "size": 512}
    backbone = {"name": "narrow_resnet", "width": 4, "blocks": [1, 1, 1, 1], "layer": "layer3"}
    learner = task(describer={**TASK["describer"], "regions": regions, "extractor": extractor, "backbone": backbone})
    photo = random_photo(384, 512)
    seen = learner.describer.attend([photo])
    assert seen.counts == [71], "and the whole image"
    with torch.no_grad():
        scores = learner._scores([Example(photo, Regions.whole(photo.size))])[0]
        mean = sum(m * w for m, w in zip(seen.maxima[1:], seen.weights[1:], strict=True)) / 70
        wanted = learner.classes(mean)  # type: ignore[misc]
    torch.testing.assert_close(scores, wanted, rtol=1e-4, atol=1e-5)


def test_the_layer_of_the_network() -> None:
    backbone = {"name": "torchvision_cnn", "arch": "resnet18", "classes": True, "weights": "random"}
    describer = {**TASK["describer"], "backbone": backbone}
    with pytest.raises(ValueError, match="data: expected 1000 instances, the network's classes, found"):
        task(describer=describer, classifier="network")


def test_bad_settings() -> None:
    pooled = {"name": "pooled_regions", "regions": {"name": "whole_image"}, "pooling": {"name": "max"}}
    pooled |= {key: TASK["describer"][key] for key in ("backbone", "extractor")}
    with pytest.raises(TypeError, match=r"describer: expected one with learned attention .* found pooled_regions"):
        task(describer=pooled)
    with pytest.raises(ValueError, match=r"validation: expected the .* instances of the data"):
        task(validation={**SCENES, "split": "val"})
    with pytest.raises(ValueError, match="classifier: expected one of"):
        task(classifier="none")
