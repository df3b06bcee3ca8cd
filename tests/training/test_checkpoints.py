from __future__ import annotations

from pathlib import Path

import pytest
import torch

from objemb.training.checkpoints import Checkpoints
from objemb.training.errors import TrainingError


def test_there_and_back(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.load() is None
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))])
    checkpoints.save({"step": 1, "weights": torch.arange(3), "optimizer": optimizer.state_dict(), "best": {"a": 0.5}})
    checkpoints.save({"step": 2, "weights": torch.arange(3)})
    state = checkpoints.load()
    assert state is not None
    assert (state["step"], state["weights"].tolist()) == (2, [0, 1, 2])
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["last.pt"]


def test_damage_is_named(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for content in (b"", b"nothing", b"PK\x03\x04 and then"):
        checkpoints.file.write_bytes(content)
        with pytest.raises(TrainingError, match=r"last.pt: expected a checkpoint of a run, found damage"):
            checkpoints.load()
    torch.save({"weights": 1}, checkpoints.file)
    with pytest.raises(TrainingError, match="no step in it"):
        checkpoints.load()
    torch.save({"step": Path("x")}, checkpoints.file)
    with pytest.raises(TrainingError, match="objects other than tensors"):
        checkpoints.load()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(TrainingError, match=r"checkpoint of step 3: expected to write .* there is none before it"):
        Checkpoints(tmp_path / "checkpoints").save({"step": 3})
