"""The runner, with a task of a few numbers."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from objemb.models import load_model
from objemb.training import checkpoints
from objemb.training.errors import TrainingError
from objemb.training.runner import fit
from tests.training.small import Dots, SmallTask, settings

ROOT = Path(__file__).parents[2]


def train(folder: Path, *, force: bool = False, task: SmallTask | None = None, **changes: Any) -> SmallTask:
    torch.manual_seed(0)
    task = task or SmallTask()
    fit(task, settings(**changes), folder, force=force, quiet=True)
    return task


def program(folder: Path, *arguments: str, launcher: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """``tests.training.small`` in processes of its own."""
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    command = [sys.executable, *launcher, "-m", "tests.training.small", str(folder), *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={**environment, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SmallTask]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, train(folder, ema=0.5)


def test_a_run_leaves_what_it_promises(finished: tuple[Path, SmallTask]) -> None:
    folder, task = finished
    names = {"config.yaml", "log.jsonl", "tensorboard", "checkpoints", "metrics.json", "model"}
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
    assert checkpoints.Checkpoints(folder / "checkpoints").load()["step"] == 4
    with (folder / "log.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"step": 5, "kind": "tr')  # cut off by the kill
    task = train(folder, ema=0.5)
    assert len(task.seen) == 8
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


@pytest.mark.parametrize("launch", ["torchrun", "itself"])
def test_two_processes_learn_as_one(tmp_path: Path, launch: str) -> None:
    """Their gradients are averaged over halves of the batch, some of which have no box."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2") if launch == "torchrun" else ()
    devices = () if launch == "torchrun" else ("devices=2",)
    started = program(tmp_path / "run", "plain=1", "batch=2", *devices, launcher=launcher)
    assert started.returncode == 0, started.stderr
    assert "warning" not in started.stderr.lower(), started.stderr
    first, second = (torch.load(f"{tmp_path}/run.rank{r}.pt", weights_only=True) for r in (0, 1))
    assert same(first["state"], second["state"])
    alone = train(tmp_path / "alone", batch=2, task=SmallTask(plain=True))
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(first["state"][name], value)
    for one, other, both in zip(first["seen"], second["seen"], alone.seen, strict=True):
        assert [*one, *other] == both
    load_model(tmp_path / "run" / "model")


def test_a_finished_run_is_left_alone(finished: tuple[Path, SmallTask], capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = finished
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.name != "config.yaml"}
    task = SmallTask()
    metrics = fit(task, settings(ema=0.5, workers=1, log_every=3), folder)
    assert metrics["steps"] == 12
    assert task.seen == []
    assert "finished after 12 steps" in capsys.readouterr().err
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.name != "config.yaml"}


def test_another_run_is_refused_unless_forced(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(folder, steps=2, warmup=0)
    with pytest.raises(TrainingError, match=r"run.lr: 0.05 there, 0.01 asked for") as error:
        train(folder, steps=3, warmup=0, lr=0.01)
    assert "run.steps: 2 there, 3 asked for" in str(error.value)
    (folder / "notes.txt").write_text("mine")
    task = train(folder, steps=3, warmup=0, lr=0.01, force=True)
    assert len(task.seen) == 3
    assert (folder / "notes.txt").read_text() == "mine"


def test_settings_may_change_until_something_was_learned(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="step 0"):
        train(tmp_path / "run", task=SmallTask(nan_at=0))
    assert len(train(tmp_path / "run", steps=3).seen) == 3


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(TrainingError, match="found something else"):
        train(tmp_path, force=True)
    with pytest.raises(TrainingError, match="found a file"):
        train(tmp_path / "thesis.tex")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_loss_that_is_not_finite_names_its_images(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    task = SmallTask(nan_at=5)
    with pytest.raises(TrainingError, match=r"step 5: expected a finite loss, found \{'fit': 'nan'") as error:
        train(folder, task=task)
    report = json.loads((folder / "nonfinite.json").read_text(encoding="utf-8"))
    assert report["step"] == 5
    assert report["images"] == task.seen[5]
    assert report["losses"]["fit"] == "nan"
    assert all(name in str(error.value) for name in report["images"])
    assert checkpoints.Checkpoints(folder / "checkpoints").load()["step"] == 4, "the last good one is intact"


def test_a_full_disk_leaves_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: tuple[Path, SmallTask]
) -> None:
    folder, write = tmp_path / "run", checkpoints._write
    written: list[Path] = []

    def full(file: Path, content: memoryview) -> None:
        written.append(file)
        write(file, content[: len(content) // 2] if len(written) == 2 else content)
        if len(written) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_write", full)
        with pytest.raises(TrainingError, match=r"checkpoint of step 8: .*No space left on device.*intact"):
            train(folder, ema=0.5)
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["last.pt"]
    assert checkpoints.Checkpoints(folder / "checkpoints").load()["step"] == 4
    assert same(train(folder, ema=0.5).state_dict(), finished[1].state_dict())


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
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    with pytest.raises(ImportError, match=r"training needs lightning: pip install 'objemb\[train\]'"):
        train(tmp_path / "run")


def test_processes_that_cannot_share_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("LOCAL_WORLD_SIZE", "3"), ("GROUP_WORLD_SIZE", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"run.batch: expected a multiple of the 3 processes, which share it, found 4"):
        train(tmp_path / "run")
