"""What lies in the folder of a run: finished runs, other runs, other settings, damaged files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from objemb.checks import TrainingError
from objemb.training.run_folder import RunFolder
from objemb.training.runner import fit
from tests.training.runs import lines, same, train
from tests.training.small import SmallTask, settings


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
    with pytest.raises(TrainingError, match=r"run.lr: expected 0.05, found 0.01") as error:
        train(folder, steps=3, warmup=0, lr=0.01)
    assert "run.steps: expected 2, found 3" in str(error.value)
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
    with pytest.raises(TrainingError, match="found other files"):
        train(tmp_path, force=True)
    with pytest.raises(TrainingError, match="found a file"):
        train(tmp_path / "thesis.tex")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_follows_the_steps_is_done_again_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: tuple[Path, SmallTask]
) -> None:
    def fails(self: SmallTask, folder: Path) -> None:
        raise ValueError("dim: expected at most 7")

    with monkeypatch.context() as patch:
        patch.setattr(SmallTask, "finish", fails)
        with pytest.raises(
            TrainingError, match=r"^dim: expected at most 7. All 12 steps are done and saved in .*last.pt"
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
    with pytest.raises(TrainingError, match=r"task.end.dim: expected 4, found 2"):
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
    with RunFolder(folder).locked(), pytest.raises(TrainingError, match="expected no other process in this folder"):
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
    assert ("resuming from the previous one, after step 5" in caplog.text) == (damage != "gone")
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
