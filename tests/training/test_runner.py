"""The runner, with a task of a few numbers."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from objemb import disk
from objemb.checks import TerminatedError, TrainingError
from objemb.images import UnreadableImageError
from objemb.models import load_model
from objemb.training import checkpoints
from objemb.training.data.base import Example
from objemb.training.run_folder import RunFolder
from objemb.training.runner import fit
from objemb.training.settings import RunSettings
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
        command,
        cwd=ROOT,
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        start_new_session=True,
    )


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def step_of(folder: Path) -> int:
    """The step of the last checkpoint."""
    state = checkpoints.Checkpoints(folder / "checkpoints").load()
    assert state is not None
    return state["step"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SmallTask]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, train(folder, ema=0.5)


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


def test_what_a_task_begins_with_is_the_same_in_all_processes(tmp_path: Path) -> None:
    started = program(tmp_path / "run", "plain=1", "batch=2", "devices=2", "begin=3.0", "lr=0.000000001")
    assert started.returncode == 0, started.stderr
    first, second = (torch.load(f"{tmp_path}/run.rank{r}.pt", weights_only=True)["state"] for r in (0, 1))
    assert same(first, second)
    assert 3 < float(first["line.bias"]) < 4
    alone = train(tmp_path / "alone", batch=2, lr=1e-9, task=SmallTask(plain=True, begin=3.0))
    torch.testing.assert_close(first["line.bias"], alone.line.bias.detach())


def test_an_average_begins_with_what_the_task_begins_with(tmp_path: Path) -> None:
    task = train(tmp_path / "run", lr=1e-9, ema=0.999, task=SmallTask(plain=True, begin=3.0))
    assert 3 < task.line.bias.item() < 4


def test_a_finished_run_is_left_alone(finished: tuple[Path, SmallTask], capsys: pytest.CaptureFixture[str]) -> None:
    def written() -> dict[Path, int]:
        """Of a run's files, without its settings, and without the lock, whose file some versions of filelock touch."""
        files = (p for p in folder.rglob("*") if p.is_file() and p.name not in ("config.yaml", "lock"))
        return {p: p.stat().st_mtime_ns for p in files}

    folder, _ = finished
    before = written()
    task = SmallTask()
    metrics = fit(task, settings(ema=0.5, workers=1, log_every=3), folder)
    assert metrics["steps"] == 12
    assert task.seen == []
    assert "finished after 12 steps" in capsys.readouterr().err
    assert before == written()


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
    assert ended.stderr.splitlines()[0] == "small: ended by SIGTERM; the same command goes on after step 7"
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
        os.kill(os.getpid(), signal.SIGTERM)
        return {"weight": 1.0}

    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(SmallTask, "validate", asked)
    with pytest.raises(TerminatedError, match="goes on after step 5"):
        train(tmp_path / "run")
    assert signal.getsignal(signal.SIGTERM) is handler
    assert lines(tmp_path / "run")[-1] == {"step": 5, "kind": "validation", "weight": 1.0}


def test_sigterm_before_a_step_is_done_keeps_nothing_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(self: SmallTask, batch: Any) -> dict[str, Tensor]:
        os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("whatever comes of it")

    monkeypatch.setattr(SmallTask, "losses", asked)
    with pytest.raises(TerminatedError, match="ended by SIGTERM; the same command begins it again"):
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


def test_what_follows_the_steps_is_done_again_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: tuple[Path, SmallTask]
) -> None:
    def fails(self: SmallTask, folder: Path) -> None:
        raise ValueError("dim: expected at most 7")

    with monkeypatch.context() as patch:
        patch.setattr(SmallTask, "finish", fails)
        with pytest.raises(
            TrainingError, match=r"^dim: expected at most 7. All 12 steps are done and kept in .*last.pt"
        ):
            train(tmp_path / "run", ema=0.5)
    task = train(tmp_path / "run", ema=0.5)
    assert task.seen == []
    assert same(task.state_dict(), finished[1].state_dict())


def with_end(end: int) -> SmallTask:
    task = SmallTask()
    task.settings = {"name": "small", "end": {"dim": end}}
    return task


def test_settings_of_what_follows_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    monkeypatch.setattr(SmallTask, "finish", lambda self, folder: done.append(self.settings["end"]["dim"]))
    monkeypatch.setattr(SmallTask, "after", ("end",))
    folder = tmp_path / "run"
    assert len(train(folder, task=with_end(8)).seen) == 12
    for end in (8, 4, 4):  # a finished run is left alone, unless something else shall follow
        assert train(folder, task=with_end(end)).seen == []
    assert done == [8, 4]
    assert json.loads((folder / "metrics.json").read_text())["after"] == {"end": {"dim": 4}}
    assert "dim: 4" in (folder / "config.yaml").read_text()
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(TrainingError, match=r"task.end.dim: 4 there, 2 asked for"):
        train(folder, task=with_end(2))
    assert train(folder, task=with_end(4)).seen == [], "finished, though nothing could go on there"


def test_a_task_is_asked_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(self: SmallTask) -> None:
        raise ValueError("whiten: expected at most 7 dimensions")

    monkeypatch.setattr(SmallTask, "check", refuses)
    with pytest.raises(ValueError, match="whiten: expected at most 7 dimensions"):
        train(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with RunFolder(folder).locked(), pytest.raises(TrainingError, match="expected no other run in this folder, found"):
        train(folder)
    assert [p.name for p in folder.iterdir()] == ["lock"]
    assert len(train(folder).seen) == 12


@pytest.mark.parametrize("content", ["", "{", "null", '{"finished": true}'])
def test_metrics_that_are_damaged_are_written_again(tmp_path: Path, content: str) -> None:
    train(tmp_path / "run", steps=2)
    metrics = (tmp_path / "run" / "metrics.json").read_text()
    (tmp_path / "run" / "metrics.json").write_text(content)
    assert train(tmp_path / "run", steps=2).seen == []
    assert (tmp_path / "run" / "metrics.json").read_text() == metrics


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b"run: [1"])
def test_settings_that_are_damaged_are_named(tmp_path: Path, content: bytes) -> None:
    train(tmp_path / "run", steps=2)
    (tmp_path / "run" / "config.yaml").write_bytes(content)
    with pytest.raises(TrainingError, match=r"run/config.yaml: expected the settings of the run.*--force"):
        train(tmp_path / "run", steps=2)
    assert (tmp_path / "run" / "config.yaml").read_bytes() == content


@pytest.mark.parametrize("damage", ["a bit", "empty", "gone"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, finished: tuple[Path, SmallTask], damage: str
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(TrainingError):
        train(folder, ema=0.5, task=SmallTask(nan_at=9))
    last = folder / "checkpoints" / "last.pt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content if damage == "a bit" else b"")
    if damage == "gone":
        last.unlink()
    task = train(folder, ema=0.5)
    assert len(task.seen) == 12 - 5, "8 was damaged"
    assert ("going on from the one before, after step 5" in caplog.text) == (damage != "gone")
    assert same(task.state_dict(), finished[1].state_dict())
    assert lines(folder) == lines(finished[0])


def test_a_validation_is_done_again_where_its_checkpoint_is_damaged(
    tmp_path: Path, finished: tuple[Path, SmallTask]
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(TrainingError):
        train(folder, ema=0.5, task=SmallTask(nan_at=6))
    (folder / "checkpoints" / "last.pt").write_bytes(b"")
    assert len(train(folder, ema=0.5).seen) == 12 - 5
    assert lines(folder) == lines(finished[0])


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
    with pytest.raises(TrainingError, match=r"processes that load examples to live.*run.workers"):
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
    with pytest.raises(
        ValueError, match=f"run: accelerator: expected one of this machine, which has 0 of {accelerator}"
    ):
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
    with pytest.raises(ValueError, match=r"run.batch: expected a multiple of the 3 processes, which share it, found 4"):
        train(tmp_path / "run")
