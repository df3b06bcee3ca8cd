"""What goes wrong in a run: losses, disks, signals, examples, devices."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from objemb import disk
from objemb.checks import TerminatedError, TrainingError
from objemb.images import UnreadableImageError
from objemb.training import checkpoints
from objemb.training.data.base import Example
from objemb.training.settings import RunSettings
from tests.training.runs import lines, program, same, step_of, train
from tests.training.small import Dots, SmallTask


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
    assert step_of(folder) == 5, "the last good one is intact"


def test_a_full_disk_leaves_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: tuple[Path, SmallTask]
) -> None:
    folder = tmp_path / "run"
    written: list[Path] = []

    @contextlib.contextmanager
    def full(file: Path) -> Iterator[Path]:
        written.append(file)
        with disk.replacing(file) as partial:
            yield partial
            if len(written) == 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "replacing", full)
        with pytest.raises(TrainingError, match=r"checkpoint of step 5: .*No space left on device.*intact"):
            train(folder, ema=0.5)
    assert step_of(folder) == 4
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"last.pt", "before.pt"}
    assert same(train(folder, ema=0.5).state_dict(), finished[1].state_dict())


def terminated(folder: Path, *arguments: str) -> None:
    """A run that gets SIGTERM in its step 7 ends after it, with what schedulers understand."""
    ended = program(folder, "term_at=6", *arguments)
    assert ended.returncode == 143, (ended.returncode, ended.stderr)
    assert ended.stderr.splitlines()[0] == "small: ended by SIGTERM; the same command resumes after step 7"
    assert step_of(folder) == 7
    assert not (folder / "metrics.json").exists()


def test_sigterm_ends_a_run_between_steps(tmp_path: Path, finished: tuple[Path, SmallTask]) -> None:
    """With a process that loads examples, which gets the signal as well."""
    folder = tmp_path / "run"
    terminated(folder, "ema=0.5", "workers=1")
    task = train(folder, ema=0.5)
    assert len(task.seen) == 5
    assert same(task.state_dict(), finished[1].state_dict())
    assert lines(folder) == lines(finished[0])


def test_sigterm_ends_all_processes_after_the_same_step(tmp_path: Path) -> None:
    terminated(tmp_path / "run", "plain=1", "batch=2", "devices=2")
    alone = train(tmp_path / "alone", batch=2, task=SmallTask(plain=True))
    rest = train(tmp_path / "run", batch=2, devices=1, task=SmallTask(plain=True))
    assert len(rest.seen) == 5
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(rest.state_dict()[name], value)


def test_sigterm_while_validating_is_heard_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(self: SmallTask) -> dict[str, float]:
        signal.getsignal(signal.SIGTERM)(signal.SIGTERM, None)  # a real one, as above, might end the test process
        return {"weight": 1.0}

    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(SmallTask, "validate", asked)
    with pytest.raises(TerminatedError, match="resumes after step 5"):
        train(tmp_path / "run")
    assert signal.getsignal(signal.SIGTERM) is handler
    assert lines(tmp_path / "run")[-1] == {"step": 5, "kind": "validation", "weight": 1.0}


def test_sigterm_before_a_step_is_done_keeps_nothing_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(self: SmallTask, batch: Any) -> dict[str, Tensor]:
        signal.getsignal(signal.SIGTERM)(signal.SIGTERM, None)  # a real one, as above, might end the test process
        raise RuntimeError("whatever comes of it")

    monkeypatch.setattr(SmallTask, "losses", asked)
    with pytest.raises(TerminatedError, match="ended by SIGTERM; the same command starts again from step 0"):
        train(tmp_path / "run")
    assert not checkpoints.Checkpoints(tmp_path / "run" / "checkpoints").exist


def test_sigterm_outside_the_main_thread_is_left_alone(tmp_path: Path) -> None:
    thread = threading.Thread(target=train, args=(tmp_path / "run",))
    thread.start()
    thread.join()
    assert (tmp_path / "run" / "metrics.json").is_file()


def test_a_validation_that_fails_costs_no_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: tuple[Path, SmallTask]
) -> None:
    validate, failing = SmallTask.validate, [True]

    def fails(self: SmallTask) -> dict[str, float]:
        failing[0] = not failing[0]
        if not failing[0]:
            raise ValueError("no memory for all vectors")
        return validate(self)

    monkeypatch.setattr(SmallTask, "validate", fails)
    for step, seen in ((5, 5), (10, 5), (12, 2)):
        task = SmallTask()
        with pytest.raises(ValueError, match="no memory for all vectors"):
            train(tmp_path / "run", ema=0.5, task=task)
        assert (step_of(tmp_path / "run"), len(task.seen)) == (step, seen)
    assert train(tmp_path / "run", ema=0.5).seen == []
    assert lines(tmp_path / "run") == lines(finished[0])


class Spoilt(Dots):
    """One example cannot be made."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def __getitem__(self, number: int) -> Example:
        if number == 4:
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise UnreadableImageError("a text file", "cat.jpg")
        return super().__getitem__(number)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_example_that_cannot_be_made_is_one_line(tmp_path: Path, workers: int) -> None:
    with pytest.raises(TrainingError, match=r"^example 4: cat.jpg: a text file$"):
        train(tmp_path / "run", task=SmallTask(examples=Spoilt("unreadable")), workers=workers)


def test_a_loader_that_was_killed_is_explained(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"data loading processes to keep running.*run.workers"):
        train(tmp_path / "run", task=SmallTask(examples=Spoilt("killed")), workers=1)


def test_a_batch_that_is_too_large_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: SmallTask, batch: Any) -> dict[str, Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    monkeypatch.setattr(SmallTask, "losses", full)
    with pytest.raises(
        TrainingError, match=r"a batch that fits into memory, found: CUDA out of memory. Tried .*run.batch"
    ):
        train(tmp_path / "run")


@pytest.mark.parametrize(("accelerator", "devices"), [("cuda", 1), ("cuda", 2), ("mps", 1)])
def test_devices_that_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accelerator: str, devices: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"run: accelerator: expected at most the 0 {accelerator} devices"):
        train(tmp_path / "run", accelerator=accelerator, devices=devices)
    assert not (tmp_path / "run").exists()


def test_what_the_trainer_refuses_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunSettings, "expect_devices", lambda self: None)
    monkeypatch.setattr("lightning.pytorch.accelerators.MPSAccelerator.is_available", lambda: False)
    with pytest.raises(ValueError, match=r"^run: expected settings for this machine, found: .*$"):
        train(tmp_path / "run", accelerator="mps")


def test_the_variables_of_slurm_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("NTASKS", "2"), ("JOB_ID", "7"), ("JOB_NAME", "job"), ("PROCID", "0"), ("LOCALID", "0")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert len(train(tmp_path / "run").seen) == 12
