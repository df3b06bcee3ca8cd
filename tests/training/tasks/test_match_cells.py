from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from objemb.models.build import build_model, load_model, save_model
from objemb.rerank._cell_votes import CellVotes
from objemb.rerank.cell_votes import VotesOfCells
from objemb.structures import Regions
from objemb.training.data.base import Example
from objemb.training.data.scenes import SceneExamples
from objemb.training.runner import fit
from objemb.training.task import build_task
from objemb.training.tasks.match_cells import WEIGHTS, MatchCells
from tests.small_settings import CROPS, SCENES
from tests.training.small import settings


def minimal(folder: Path) -> dict[str, Any]:
    if not (folder / "described").exists():
        describer = {**CROPS, "backbone": {**CROPS["backbone"], "weights": "random"}}
        save_model(build_model({"describer": describer, "aggregator": {"name": "keep"}}), folder / "described")
    data = {**SCENES, "count": 8, "cache": True}
    return {
        "model": str(folder / "described"), "data": data, "validation": {**data, "split": "val"},
        "size": 32, "width": 8, "validation_boxes": 12,
    }  # fmt: skip


def task(folder: Path, **changes: Any) -> MatchCells:
    return build_task({"name": "match_cells", **minimal(folder), **changes})  # type: ignore[return-value]


def test_a_run_leaves_the_weights_of_a_reranker(tmp_path: Path) -> None:
    learner = task(tmp_path)
    before = {k: v.clone() for k, v in learner.votes.state_dict().items()}
    metrics = fit(learner, settings(steps=3, batch=6, warmup=0), tmp_path / "run", quiet=True)
    assert metrics["last"].keys() == {"step", "P@1", "P@1 of the mean cosine"}
    loaded = CellVotes.load(tmp_path / "run" / WEIGHTS)
    assert loaded.size == 32
    assert any(not torch.equal(v, before[k]) for k, v in loaded.state_dict().items())
    assert VotesOfCells(weights=tmp_path / "run" / WEIGHTS).crop.size == 32
    described, given = load_model(tmp_path / "run" / "model"), load_model(tmp_path / "described")
    assert described.fingerprint == given.fingerprint


def test_the_loss_by_hand(tmp_path: Path) -> None:
    """Each box has one partner: with two instances of two boxes, the rows of one batch say all."""
    learner = task(tmp_path)
    items = learner.examples
    number = next(n for n in range(len(items)) if len(items.partners(n)))
    other = next(n for n in range(len(items)) if len(items.partners(n)) and items.labels[n] != items.labels[number])
    chosen = {number: int(items.partners(number)[0]), other: int(items.partners(other)[0])}
    items.partners = lambda n: torch.tensor([chosen[n]])  # type: ignore[method-assign]  # a single choice
    loss = learner.losses([items[number], items[other]])["match"]
    first, second = (learner._cells(items, list(n)) for n in (chosen.keys(), chosen.values()))
    logits = torch.stack([learner.votes(torch.stack([a @ b.T for b in second])) for a in first])
    expected = -torch.log_softmax(logits, dim=1).diagonal().mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_partners_of_the_same_instance_are_no_negatives(tmp_path: Path) -> None:
    learner = task(tmp_path)
    items = learner.examples
    number = next(n for n in range(len(items)) if len(items.partners(n)))
    alike = [items[number], items[int(items.partners(number)[0])]]
    assert float(learner.losses(alike)["match"].detach()) == pytest.approx(0, abs=1e-6)


def test_cells_are_those_of_the_reranker_and_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = task(tmp_path)
    cells = learner._cells(learner.examples, [0, 1, 0])
    assert torch.equal(cells[0], cells[2])
    np.testing.assert_allclose(cells.norm(dim=2), 1, atol=2e-3)
    monkeypatch.setattr("objemb.training.tasks.match_cells.box_cells", None)
    assert torch.equal(learner._cells(learner.examples, [1])[0], cells[1])


def test_figures_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = task(tmp_path, validation_boxes=1000)
    items = learner.validation
    assert items is not None
    ideal = (items.labels[:, None] == items.labels).float()
    monkeypatch.setattr(learner, "_logits", lambda first, second: ideal)
    assert learner.validate()["P@1"] == 1.0
    monkeypatch.setattr(learner, "_logits", lambda first, second: -ideal)
    assert learner.validate()["P@1"] == 0.0
    assert task(tmp_path, validation=None).validate() == {}


def test_mistakes_are_named(tmp_path: Path) -> None:
    learner = task(tmp_path)
    photo = learner.examples[0].photo
    assert float(learner.losses([Example(photo, Regions.empty(photo.size))])["match"].detach()) == 0
    with pytest.raises(ValueError, match="data: expected boxes of an instance in at least 2 photos, found none"):
        MatchCells(model=tmp_path / "described", data=SceneExamples(count=1, families=2))
    with pytest.raises(FileNotFoundError, match="none"):
        task(tmp_path, model=str(tmp_path / "none"))
