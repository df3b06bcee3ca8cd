"""The runner, with a task of a few numbers."""

from __future__ import annotations

import json
import logging
import re
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from objemb.checks import TrainingError
from objemb.models import load_model
from objemb.training.runner import fit
from tests.training.runs import lines, program, same, step_of, train
from tests.training.small import Dots, SmallTask, settings


def test_a_run_leaves_what_it_promises(finished: tuple[Path, SmallTask]) -> None:
    folder, task = finished
    names = {"config.yaml", "log.jsonl", "tensorboard", "checkpoints", "metrics.json", "model", "lock"}
    assert {p.name for p in folder.iterdir()} == names
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert (metrics["steps"], metrics["finished"]) == (12, True)
    assert metrics["last"] == {"step": 12, "weight": pytest.approx(task.line.weight.item()), "training": 0.0}
    validated = {e["step"]: e["weight"] for e in lines(folder) if e["kind"] == "validation"}
    assert list(validated) == [5, 10, 12]
    best = max(validated, key=lambda step: validated[step])
    assert metrics["best"]["weight"] == {"value": validated[best], "step": best}
    trained = [e for e in lines(folder) if e["kind"] == "train"]
    assert [e["step"] for e in trained] == [2, 4, 6, 8, 10, 12]
    assert trained[0].keys() == {"step", "kind", "fit", "size", "loss", "lr"}
    provenance = load_model(folder / "model").provenance
    assert provenance["training"]["run"]["steps"] == 12
    assert (folder / "tensorboard").is_dir()


def test_scalars_and_pictures_reach_tensorboard(finished: tuple[Path, SmallTask]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished[0] / "tensorboard")).Reload()
    assert {"train/loss", "train/lr", "validation/weight"} <= set(events.Tags()["scalars"])
    assert [e.step for e in events.Scalars("validation/weight")] == [5, 10, 12]
    assert [e.step for e in events.Images("grey")] == [5, 10, 12]


def test_every_step_sees_its_examples(finished: tuple[Path, SmallTask]) -> None:
    seen = [name for step in finished[1].seen for name in step]
    assert len(seen) == 12 * 4
    for epoch in range(6):
        assert len(set(seen[7 * epoch : 7 * epoch + 7])) == 7, "an epoch shows everything once"


def test_a_killed_run_ends_like_one_that_was_not(tmp_path: Path, finished: tuple[Path, SmallTask]) -> None:
    folder = tmp_path / "run"
    killed = program(folder, "kill_at=6", "ema=0.5")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert step_of(folder) == 5, "validated there"
    with (folder / "log.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"step": 5, "kind": "tr')  # cut off by the kill
    task = train(folder, ema=0.5)
    assert len(task.seen) == 7
    assert same(task.state_dict(), finished[1].state_dict())
    assert lines(folder) == lines(finished[0])
    assert json.loads((folder / "metrics.json").read_text()) == json.loads((finished[0] / "metrics.json").read_text())


@pytest.mark.parametrize("precision", ["bf16", "16"])
def test_precision_is_resumed_too(tmp_path: Path, precision: str) -> None:
    whole = train(tmp_path / "whole", precision=precision)
    broken = SmallTask(nan_at=9)
    with pytest.raises(TrainingError):
        train(tmp_path / "part", precision=precision, task=broken)
    assert same(train(tmp_path / "part", precision=precision).state_dict(), whole.state_dict())


def test_a_run_that_was_killed_after_its_last_step_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(self: SmallTask) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(SmallTask, "model", dies)
        with pytest.raises(RuntimeError, match="killed"):
            train(tmp_path / "run")
    task = train(tmp_path / "run")
    assert task.seen == []
    assert (tmp_path / "run" / "model").is_dir()
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["last"]["step"] == 12


@pytest.mark.parametrize(("launch", "begin"), [("torchrun", 0.0), ("itself", 3.0)])
def test_two_processes_learn_as_one(tmp_path: Path, launch: str, begin: float) -> None:
    """Their gradients are averaged over halves of the batch, some of which have no box; what a task begins with, drawn
    at random, is drawn in one of them."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2") if launch == "torchrun" else ()
    devices = () if launch == "torchrun" else ("devices=2",)
    started = program(tmp_path / "run", "plain=1", "batch=2", f"begin={begin}", *devices, launcher=launcher)
    assert started.returncode == 0, started.stderr
    assert "warning" not in started.stderr.lower(), started.stderr
    first, second = (torch.load(f"{tmp_path}/run.rank{r}.pt", weights_only=True) for r in (0, 1))
    assert same(first["state"], second["state"])
    alone = train(tmp_path / "alone", batch=2, task=SmallTask(plain=True, begin=begin))
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(first["state"][name], value)
    for one, other, both in zip(first["seen"], second["seen"], alone.seen, strict=True):
        assert [*one, *other] == both
    load_model(tmp_path / "run" / "model")


def test_an_average_begins_with_what_the_task_begins_with(tmp_path: Path) -> None:
    task = train(tmp_path / "run", lr=1e-9, ema=0.999, task=SmallTask(plain=True, begin=3.0))
    assert 3 < task.line.bias.item() < 4


def test_batches_without_any_box_are_steps(tmp_path: Path) -> None:
    class Empty(Dots):
        def __getitem__(self, number: int) -> Any:
            return super().__getitem__(2)

    task = SmallTask(examples=Empty())
    before = {k: v.clone() for k, v in task.state_dict().items()}
    train(tmp_path / "run", task=task, steps=3, warmup=0, weight_decay=0.0)
    assert len(task.seen) == 3
    assert same(before, task.state_dict())


def test_no_examples_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data: expected at least one example, found none"):
        train(tmp_path / "run", task=SmallTask(examples=Dots(0)))


def test_ctrl_c_is_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = signal.getsignal(signal.SIGINT)

    def interrupted(self: SmallTask, batch: object) -> dict[str, Tensor]:
        raise KeyboardInterrupt

    monkeypatch.setattr(SmallTask, "losses", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is handler


def test_examples_come_from_other_processes_as_well(tmp_path: Path, finished: tuple[Path, SmallTask]) -> None:
    assert same(train(tmp_path / "run", ema=0.5, workers=2).state_dict(), finished[1].state_dict())


def test_the_trainer_says_nothing_of_its_own(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(SmallTask(), settings(), tmp_path / "run")
    out, err = capfd.readouterr()
    assert out == ""
    assert all(re.match(r"(step \d+/12|validation after step \d+: )", line) for line in err.splitlines()), err
    assert not [r for r in caplog.records if r.name.startswith("lightning") and r.levelno >= logging.INFO]


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "objemb.training._lightning", raising=False)
    monkeypatch.delattr("objemb.training._lightning", raising=False)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    with pytest.raises(ImportError, match=r"training needs lightning: pip install 'objemb\[train\]'"):
        train(tmp_path / "run")


def test_processes_that_cannot_share_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("LOCAL_WORLD_SIZE", "3"), ("GROUP_WORLD_SIZE", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"run.batch: expected a multiple of the 3 processes, found 4"):
        train(tmp_path / "run")
