from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from objemb import registry
from objemb.losses.ranking.base import RankingBatch, RankingLoss
from objemb.models import load_model
from objemb.structures import Regions
from objemb.training.checkpoints import Checkpoints
from objemb.training.data.base import Example
from objemb.training.optimizer import parameters_below
from objemb.training.runner import fit
from objemb.training.task import build_task
from objemb.training.tasks.rank import Rank
from tests import small_settings
from tests.training.runs import same
from tests.training.small import settings

SMALL = {**small_settings.CROPS, "name": "rmac_network", "extractor": {"name": "map", "size": 48}, "dim": 3}
MINIMAL = {
    "describer": SMALL,
    "data": small_settings.SCENES,
    "validation": small_settings.SCENES,
    "ranking_loss": {"name": "triplet"},
    "negatives": 1,
}

SCENES = {"name": "scenes", "count": 6, "families": 2, "cache": True, "settings": {"size": 48}}
TASK: dict[str, Any] = {
    "name": "rank",
    "describer": {
        "name": "rmac_network",
        "regions": {"name": "rmac_grid", "levels": 1},
        "backbone": {"name": "narrow_resnet", "width": 2, "blocks": [1, 1, 1, 1]},
        "extractor": {"name": "map", "size": 48},
        "pooling": {"name": "max"},
        "dim": 6,
    },
    "data": SCENES,
    "validation": {**SCENES, "split": "val"},
    "ranking_loss": {"name": "triplet"},
    "negatives": 2,
    "pool": 10,
    "refresh": 3,
}
RUN = {"steps": 8, "batch": 4, "warmup": 0, "checkpoint_every": 2, "validate_every": 0}


def task(**changes: Any) -> Rank:
    return build_task({**TASK, **changes})  # type: ignore[return-value]


def describer(**changes: Any) -> dict[str, Any]:
    return {**TASK["describer"], **changes}


def rankable(learner: Rank, count: int = 4) -> list[Example]:
    numbers = [n for n in range(len(learner.examples)) if len(learner.examples.partners(n))]
    return [learner.examples[n] for n in numbers[:count]]


def test_a_run_learns_and_leaves_a_model(tmp_path: Path) -> None:
    learner = task()
    before = {k: v.clone() for k, v in learner.state_dict().items()}
    metrics = fit(learner, settings(steps=4, batch=4, warmup=0), tmp_path / "run", quiet=True)
    assert metrics["last"].keys() == {"step", "mAP", "P@1"}
    changed = {k for k, v in learner.state_dict().items() if not torch.equal(v, before[k])}
    assert {"describer.projection.weight", "describer.projection.bias", "pool_vectors", "age"} <= changed
    assert any(k.startswith("describer.backbone") for k in changed)
    assert not any("running_" in k for k in changed), "norms keep their statistics"
    model = load_model(tmp_path / "run" / "model")
    item = learner.examples[0].photo
    torch.testing.assert_close(
        torch.as_tensor(model.describe(item).vectors), learner.describer.embed_photos([item]).detach()
    )
    assert model.settings["aggregator"]["name"] == "sum"
    assert model.dim == 6


def test_gradients_reach_projection_and_backbone() -> None:
    learner = task()
    (loss,) = learner.losses(rankable(learner)).values()
    loss.backward()
    learned = [p for p in learner.parameters() if p.requires_grad]
    assert {id(p) for g in learner.parameter_groups() for p in g["params"]} == {id(p) for p in learned}
    for parameter in learned:
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()
    assert learner.describer.projection.weight.grad.any()
    assert learner.describer.backbone.network.conv1.weight.grad.any()
    assert not any(m.training for m in learner.describer.modules())


def test_the_loss_is_that_of_its_triplets() -> None:
    """Without augmentation the loss follows from the vectors of queries, positives and negatives."""
    learner = task(colour_jitter=0.0, ranking_loss={"name": "triplet", "margin": 0.5})
    batch = rankable(learner, 1)
    torch.manual_seed(0)
    (loss,) = learner.losses(batch).values()
    number = int(batch[0].regions.extras["items"][0])
    items, embed = learner.examples, learner.describer.embed_photos
    query = embed([batch[0].photo])
    (mined,) = learner._mine(query.detach(), torch.tensor([number])).tolist()
    labels = [int(items.labels[n]) for n in (number, *mined)]
    assert len(set(labels)) == 3, "negatives are of different identities, and not the query's"
    far = [(query - embed([items[n].photo])).square().sum().item() for n in mined]
    wanted = [
        sum(0.5 * max(0.0, 0.5 + (query - embed([items[p].photo])).square().sum().item() - f) for f in far) / len(far)
        for p in items.partners(number).tolist()
    ]
    assert min(abs(loss.item() - w) for w in wanted) < 1e-5


def test_the_pool_lasts_until_it_is_refreshed() -> None:
    learner = task()
    batch = rankable(learner)
    pools = []
    for step in range(4):
        torch.manual_seed(step)
        learner.losses(batch)
        pools.append(learner.pool_items.tolist())
    assert pools[0] == pools[1] == pools[2] != pools[3]
    vectors = torch.cat([learner.describer.embed_photos([learner.examples[n].photo]) for n in pools[3]])
    torch.testing.assert_close(learner.pool_vectors, vectors.detach(), rtol=1e-4, atol=1e-5)


def test_a_pool_is_never_larger_than_the_data() -> None:
    learner = task(pool=10_000)
    learner.losses(rankable(learner))
    assert learner.pool_items.tolist() == list(range(len(learner.examples)))


@pytest.mark.parametrize("loss", registry.names("losses.ranking"))
def test_what_cannot_be_asked_costs_nothing(loss: str) -> None:
    learner = task(ranking_loss={"name": loss})
    photo = learner.examples[0].photo
    (found,) = learner.losses([Example(photo, Regions.empty(photo.size))]).values()
    assert found.item() == 0
    found.backward()


def test_an_item_without_a_partner_is_no_query() -> None:
    learner = task()
    learner.examples.labels[0] = 99
    (found,) = learner.losses([learner.examples[0]]).values()
    assert found.item() == 0


@pytest.mark.parametrize("loss", ["triplet", "average_precision"])
def test_the_gradient_in_chunks_is_that_of_the_whole_batch(loss: str) -> None:
    """Multi-stage back-propagation, with chunks that do not divide the numbers of photos."""
    gradients = []
    for chunk in (None, 3, 1):
        learner = task(ranking_loss={"name": loss}, positives=2, chunk=chunk)
        torch.manual_seed(0)
        (found,) = learner.losses(rankable(learner)).values()
        found.backward()
        assert found.item() > 0
        gradients.append({k: p.grad for k, p in learner.named_parameters() if p.grad is not None})
    whole = gradients[0]
    assert any(gradient.abs().max() > 1e-3 for gradient in whole.values())
    for parts in gradients[1:]:
        assert parts.keys() == whole.keys()
        for name, gradient in whole.items():
            torch.testing.assert_close(parts[name], gradient, rtol=1e-3, atol=1e-5)


def test_regions_may_be_proposals_of_a_detector() -> None:
    """As in the ECCV paper; the detector is not trained."""
    detector = {
        "name": "faster_rcnn",
        "backbone": TASK["describer"]["backbone"],
        **{"pyramid_strides": [4, 8, 16], "channels": 8, "box_width": 8, "min_size": 64, "max_size": 64},
    }
    regions = {"name": "rpn_proposals", "detector": detector, "max_regions": 4}
    learner = task(describer=describer(regions=regions), chunk=3, validation=None)
    (loss,) = learner.losses(rankable(learner, 2)).values()
    loss.backward()
    assert learner.describer.backbone.network.conv1.weight.grad.any()
    assert all(p.grad is None for p in learner.describer.regions.parameters())


def test_only_the_trunk_of_a_detector_is_trained() -> None:
    detector = {
        "name": "faster_rcnn",
        "backbone": TASK["describer"]["backbone"],
        **{"pyramid_strides": [4, 8, 16], "channels": 8, "box_width": 8, "min_size": 64, "max_size": 64},
    }
    own = describer(
        regions={"name": "rpn_proposals", "max_regions": 4}, backbone={"name": "detector_trunk", "detector": detector}
    )
    learner = task(describer=own, chunk=3, validation=None)
    (loss,) = learner.losses(rankable(learner, 2)).values()
    loss.backward()
    learned = {name for name, p in learner.named_parameters() if p.requires_grad}
    assert learned == {name for name, p in learner.named_parameters() if p.grad is not None}
    trunk = {f"describer.backbone.detector.{n}" for n in parameters_below(learner.describer.detector, "trunk16")}
    assert learned == trunk | {"describer.projection.weight", "describer.projection.bias"}


def test_each_photo_of_a_step_has_a_resolution_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = task(resolutions=[0.5, 1.0, 1.5], chunk=2)
    photos = [learner.examples[n].photo for n in range(7)]
    described: list[tuple[float, list[str]]] = []
    embed = learner.describer.embed_photos

    def recorded(some: Any, *, factor: float = 1.0) -> Tensor:
        described.append((factor, [photo.id for photo in some]))
        return embed(some, factor=factor)

    monkeypatch.setattr(learner.describer, "embed_photos", recorded)
    torch.manual_seed(1)
    vectors = learner._embed(photos)
    torch.manual_seed(1)
    torch.testing.assert_close(learner._embed(photos), vectors, msg="the seed of a step decides")
    monkeypatch.undo()
    factors = {name: factor for factor, names in described for name in names}
    assert len(factors) == 7
    assert len(set(factors.values())) > 1
    assert max(len(names) for _, names in described) == 2
    expected = torch.cat([embed([photo], factor=factors[photo.id]) for photo in photos])
    torch.testing.assert_close(vectors, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(vectors, embed(photos), atol=1e-3)
    with pytest.raises(ValueError, match="resolutions"):
        task(resolutions=[0.0])


def test_activations_of_one_chunk_are_kept() -> None:
    """What the graph of the loss holds before the gradient is computed: with chunks, photos only."""
    held = {}
    for chunk in (None, 2):
        learner = task(ranking_loss={"name": "average_precision"}, negatives=0, chunk=chunk)
        batch, sizes = rankable(learner, 6), list[int]()

        def pack(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            learner.losses(batch)
        held[chunk] = sum(sizes)
    assert held[2] < 0.1 * held[None]


def test_several_positives_and_no_negatives_are_given_to_the_loss() -> None:
    learner = task(ranking_loss={"name": "average_precision"}, positives=3, negatives=0)
    batches: list[RankingBatch] = []
    learner.ranking_loss = Recorder(batches)
    examples = rankable(learner)
    learner.losses(examples)
    (found,) = batches
    numbers = [int(e.regions.extras["items"][0]) for e in examples]
    owners = found.positive_owners.tolist()
    assert len(found.negatives) == 0
    assert found.items[: len(numbers)].tolist() == numbers
    for query, number in enumerate(numbers):
        partners = learner.examples.partners(number).tolist()
        chosen = [int(found.items[len(numbers) + row]) for row, owner in enumerate(owners) if owner == query]
        assert len(set(chosen)) == len(chosen) == min(3, len(partners))
        assert set(chosen) <= set(partners)
    assert found.labels.tolist() == learner.examples.labels[found.items].tolist()
    assert not learner.pool_vectors.any(), "no pool is described"


class Recorder(RankingLoss):
    """Remembers what it is given."""

    def __init__(self, batches: list[RankingBatch]) -> None:
        self.batches = batches

    def loss(self, batch: RankingBatch) -> Tensor:
        self.batches.append(batch)
        return batch.nothing()


def test_factors_freeze() -> None:
    learner = task(factors={"backbone.*": 0})
    assert {k for k, p in learner.named_parameters() if p.requires_grad} == {
        "describer.projection.weight", "describer.projection.bias",
    }  # fmt: skip
    learner.losses(rankable(learner))["ranking"].backward()
    assert learner.describer.backbone.network.conv1.weight.grad is None
    with pytest.raises(ValueError, match="factors: expected patterns of"):
        task(factors={"regions.*": 1})


def test_a_fitted_projection_is_where_learning_starts(tmp_path: Path) -> None:
    learner = task()
    assert "training items" in learner.describer.projection.fitted_on
    vectors = learner.describer.samples("projection", [e.photo for e in map(learner.examples.__getitem__, range(5))])
    mean = learner.describer.projection(vectors).mean(dim=0)
    assert mean.norm() < learner.describer.projection(vectors).norm(dim=1).mean(), "centred"


def test_learning_goes_on_from_the_parts_of_a_trained_network(tmp_path: Path) -> None:
    """Ranking over proposals starts with the projection that was learned over the grid."""
    before = task()
    with torch.no_grad():
        before.describer.projection.weight.mul_(2)
    before.model().save(tmp_path / "model")
    learner = task(start=str(tmp_path / "model"), describer=describer(regions={"name": "rmac_grid", "levels": 2}))
    assert same(learner.describer.projection.state_dict(), before.describer.projection.state_dict())
    assert learner.describer.projection.fitted_on.startswith(
        f"the training of {load_model(tmp_path / 'model').fingerprint}"
    )
    with pytest.raises(
        ValueError, match=r"start: expected a model with the fitted part projection of .*\(4, 16\).*\(6, 16\)"
    ):
        task(start=str(tmp_path / "model"), describer=describer(dim=4))
    with pytest.raises(FileNotFoundError, match="missing"):
        task(start=str(tmp_path / "missing"))


def test_pictures_follow_a_validation() -> None:
    learner = task().eval()
    assert learner.pictures() == {}
    assert learner.validate().keys() == {"mAP", "P@1"}
    picture = learner.pictures()["neighbours"]
    assert picture.dtype == torch.uint8
    assert picture.shape[0] == 3
    assert task(validation=None).validate() == {}


def test_an_interrupted_run_ends_like_one_that_was_not(tmp_path: Path) -> None:
    """Interrupted between two refreshes: the pool that it goes on with is that of its checkpoint."""
    whole, broken, resumed = (task(flip=True, validation=None, resolutions=[0.75, 1.0]) for _ in range(3))
    fit(whole, settings(**RUN), tmp_path / "whole", quiet=True)
    losses = broken.losses

    def dying(batch: Sequence[Example]) -> dict[str, Tensor]:
        if int(broken.age) == 5:
            raise RuntimeError("killed")
        return losses(batch)

    broken.losses = dying  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="killed"):
        fit(broken, settings(**RUN), tmp_path / "run", quiet=True)
    state = Checkpoints(tmp_path / "run" / "checkpoints").load()
    assert state is not None
    assert int(state["task"]["age"]) == 4, "the pool is a step old"
    fit(resumed, settings(**RUN), tmp_path / "run", quiet=True)
    assert int(resumed.age) == 8
    assert same(resumed.state_dict(), whole.state_dict())


def test_what_cannot_be_learned_is_named() -> None:
    pooled = {k: v for k, v in TASK["describer"].items() if k != "dim"} | {"name": "pooled_regions"}
    with pytest.raises(TypeError, match="describer: expected a rmac_network to be trained, found PooledRegions"):
        task(describer=pooled)
    with pytest.raises(ValueError, match="negatives: expected an integer of 1 or more, found 0"):
        task(negatives=0)
    with pytest.raises(ValueError, match="data: expected boxes of at least 2 instances, one of them in at least 2"):
        task(data={**SCENES, "count": 1})
    with pytest.raises(ValueError, match="dim: expected 1 to"):
        task(describer=describer(dim=16), fit_items=4)
