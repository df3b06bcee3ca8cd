"""Every training task keeps to the contract of its kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from objemb.config import dump_config, load_training_config
from objemb.models import load_model
from objemb.structures import Regions
from objemb.training.data.base import Example
from objemb.training.optimizer import make_optimizer
from objemb.training.settings import RunSettings
from objemb.training.task import Task, build_task
from tests.contracts.made import every, minimal


@every("training.tasks")
class TestTasks:
    def task(self, name: str, folder: Path) -> Task:
        part = minimal("training.tasks", name, folder)
        file = folder / "config.yaml"
        file.write_text(dump_config({"task": part}), encoding="utf-8")
        return build_task(load_training_config(file)["task"])

    def test_a_step(self, name: str, tmp_path: Path) -> None:
        task = self.task(name, tmp_path).train()
        optimizer = make_optimizer(task.parameter_groups(), RunSettings(steps=1, batch=2, lr=0.01))
        before = {k: v.clone() for k, v in task.state_dict().items()}
        terms = task.losses([task.examples[0], task.examples[1]])
        assert all(v.ndim == 0 and torch.isfinite(v) for v in terms.values())
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        assert any(not torch.equal(v, before[k]) for k, v in task.state_dict().items())

    def test_a_step_repeats_with_its_seed(self, name: str, tmp_path: Path) -> None:
        task = self.task(name, tmp_path).train()
        batch = [task.examples[0], task.examples[1]]
        for _ in range(2):  # the norms of a task may go on learning, but not so as to change what it learns from
            torch.manual_seed(3)
            found = {k: v.detach() for k, v in task.losses(batch).items()}
        torch.manual_seed(3)
        again = task.losses(batch)
        assert all(torch.allclose(v.detach(), found[k], rtol=1e-4) for k, v in again.items())

    def test_a_batch_without_boxes(self, name: str, tmp_path: Path) -> None:
        task = self.task(name, tmp_path).train()
        photo = task.examples[0].photo
        terms = task.losses([Example(photo, Regions.empty(photo.size))])
        assert all(torch.isfinite(v) for v in terms.values())

    @torch.no_grad()
    def test_figures_pictures_and_a_model(self, name: str, tmp_path: Path) -> None:
        task = self.task(name, tmp_path).eval()
        assert all(isinstance(v, float) for v in task.validate().values())
        for picture in task.pictures().values():
            assert picture.dtype == torch.uint8
            assert picture.shape[0] == 3
        model = task.model()
        model.save(tmp_path / "model")
        photo = task.examples[0].photo
        found = load_model(tmp_path / "model").query(photo).vectors
        np.testing.assert_allclose(found, model.query(photo).vectors, atol=1e-6)

    def test_state_is_tensors(self, name: str, tmp_path: Path) -> None:
        task = self.task(name, tmp_path)
        torch.save(task.state_dict(), tmp_path / "state.pt")
        task.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
