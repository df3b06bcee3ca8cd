from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from objemb import disk
from objemb.checks import TrainingError
from objemb.disk import beside
from objemb.training import checkpoints
from objemb.training.checkpoints import HEADER, Checkpoints


def test_there_and_back(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.load() is None
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))])
    checkpoints.save({"step": 1, "weights": torch.arange(3), "optimizer": optimizer.state_dict(), "best": {"a": 0.5}})
    checkpoints.save({"step": 2, "weights": torch.arange(3)})
    state = checkpoints.load()
    assert state is not None
    assert (state["step"], state["weights"].tolist()) == (2, [0, 1, 2])
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"last.pt", "before.pt"}


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"step": 1, "weights": torch.arange(5.0)})
    content = checkpoints.file.read_bytes()
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        checkpoints.file.write_bytes(damaged)
        with pytest.raises(TrainingError, match=r"last.pt: expected a checkpoint of a run, found damage \("):
            checkpoints.load()
    checkpoints.file.write_bytes(content[:-1])
    with pytest.raises(TrainingError, match="wrong checksum"):
        checkpoints.load()


def test_the_one_before_is_kept_until_there_is_a_sound_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2, 3):
        checkpoints.save({"step": step})
    assert step_of(checkpoints.before) == 2
    checkpoints.file.write_bytes(b"")
    again = Checkpoints(tmp_path)
    assert again.load() == {"step": 2}
    assert "last.pt: expected a checkpoint of a run, found damage (unknown header)" in caplog.text
    assert "resuming from the previous one, after step 2" in caplog.text
    again.save({"step": 3})
    assert (step_of(again.file), step_of(again.before)) == (3, 2), "the damaged one took no place"
    again.save({"step": 4})
    assert (step_of(again.file), step_of(again.before)) == (4, 3)
    again.file.unlink()
    assert again.exist
    assert Checkpoints(tmp_path).load() == {"step": 3}


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*names: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuses)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"step": 1})
    checkpoints.save({"step": 2})
    assert (step_of(checkpoints.file), step_of(checkpoints.before)) == (2, 1)


def step_of(file: Path) -> int:
    return torch.load(io.BytesIO(file.read_bytes()[HEADER:]), weights_only=True)["step"]


def written(file: Path, state: object) -> None:
    """A file with a checksum that fits, whatever is in it."""
    content = io.BytesIO()
    torch.save(state, content)
    digest = hashlib.sha256(content.getvalue()).hexdigest()
    file.write_bytes(b"objemb checkpoint 1 " + digest.encode() + b"\n" + content.getvalue())


def test_damage_is_named(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for content in (b"", b"nothing", b"PK\x03\x04 and then"):
        checkpoints.file.write_bytes(content)
        with pytest.raises(TrainingError, match=r"last.pt: expected a checkpoint of a run, found damage"):
            checkpoints.load()
    written(checkpoints.file, {"weights": 1})
    with pytest.raises(TrainingError, match="no step"):
        checkpoints.load()
    written(checkpoints.file, {"step": Path("x")})
    with pytest.raises(TrainingError, match="objects other than tensors"):
        checkpoints.load()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(TrainingError, match=r"checkpoint of step 3: expected to write .* there is no earlier one"):
        Checkpoints(tmp_path / "checkpoints").save({"step": 3})


def test_the_error_of_a_full_disk_holds_no_view_of_a_buffer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.12 crashes when it collects a buffer and a view of it together, as in the frames of a kept error."""

    @contextlib.contextmanager
    def full(file: Path) -> Iterator[Path]:
        with disk.replacing(file) as partial:
            yield partial
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints, "replacing", full)
    with pytest.raises(TrainingError, match="No space left on device") as caught:
        Checkpoints(tmp_path).save({"step": 1, "w": torch.zeros(9)})
    names = {frame.f_code.co_name: frame.f_locals for frame, _ in traceback.walk_tb(caught.tb)}
    assert "save" in names
    assert not [v for values in names.values() for v in values.values() if isinstance(v, memoryview)]


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"step": 1})
    beside(checkpoints.file).write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    checkpoints.save({"step": 2})
    assert {p.name for p in tmp_path.iterdir()} == {"last.pt", "before.pt", "notes.txt"}
