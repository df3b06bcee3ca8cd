"""Runs of the small task, in this process and in others."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from objemb.training import checkpoints
from objemb.training.runner import fit
from tests.training.small import SmallTask, settings

ROOT = Path(__file__).parents[2]


def train(folder: Path, *, force: bool = False, task: SmallTask | None = None, **changes: Any) -> SmallTask:
    torch.manual_seed(0)
    task = task or SmallTask()
    fit(task, settings(**changes), folder, force=force, quiet=True)
    return task


#: What a process of several sometimes says on a busy machine when it ends, after its work: threads of PyTorch's gloo
#: outlive the interpreter. Ten lines of PyTorch alone do it as well, so this is no fault that these tests look for.
ABORTED_AT_EXIT = "terminate called without an active exception"


def program(folder: Path, *arguments: str, launcher: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """``tests.training.small`` in processes of its own."""
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    command = [sys.executable, *launcher, "-m", "tests.training.small", str(folder), *arguments]
    existed = folder.exists()
    for attempt in range(3):
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**environment, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            start_new_session=True,
        )
        if existed or ABORTED_AT_EXIT not in done.stderr or attempt == 2:
            break
        shutil.rmtree(folder, ignore_errors=True)
    return done


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def step_of(folder: Path) -> int:
    """The step of the last checkpoint."""
    state = checkpoints.Checkpoints(folder / "checkpoints").load()
    assert state is not None
    return state["step"]
