"""A task of a few numbers, to run the runner; as a program, it runs in a process of its own.

``python -m tests.training.small RUN key=value ...``; ``kill_at=7`` kills the process without warning in step 7,
``term_at=7`` has SIGTERM sent to it and all of its group, and ``plain=1`` leaves out what depends on the process: noise
and the norm.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from objemb.config import resolve
from objemb.models import Model, build_model
from objemb.structures import Photo, Regions
from objemb.training.data.base import Example, Examples
from objemb.training.settings import RunSettings
from objemb.training.task import Task

MODEL = {
    "describer": {
        "name": "pooled_regions",
        "regions": {"name": "whole_image"},
        "backbone": {"name": "narrow_resnet", "width": 2, "blocks": [1, 1, 1, 1], "layer": "layer1"},
        "extractor": {"name": "map", "size": 16},
        "pooling": {"name": "mean"},
    }
}


class Dots(Examples):
    """Grey pictures; every third has no box."""

    def __init__(self, count: int = 7) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Example:
        number = self._checked(number)
        pixels = torch.full((3, 4, 4), 20 * number, dtype=torch.uint8)
        regions = Regions.empty((4, 4)) if number % 3 == 2 else Regions.whole((4, 4))
        return Example(Photo(f"dot {number}", pixels, (4, 4)), regions)


class SmallTask(Task):
    """Fits a line to noisy brightness; nothing depends on it where no example has a box."""

    def __init__(
        self,
        *,
        examples: Examples | None = None,
        kill_at: int = -1,
        term_at: int = -1,
        nan_at: int = -1,
        plain: bool = False,
        begin: float = 0.0,
    ) -> None:
        super().__init__()
        self.examples = Dots() if examples is None else examples
        self.line = nn.Linear(1, 1)
        self.norm = nn.BatchNorm1d(1)
        with torch.no_grad():
            self.line.weight.fill_(0.5)
            self.line.bias.fill_(-0.2)
        self.seen: list[list[str]] = []
        self.kill_at, self.term_at, self.nan_at, self.plain = kill_at, term_at, nan_at, plain
        self.first_bias = begin

    def begin(self) -> bool:
        if self.first_bias:
            self.line.bias.fill_(self.first_bias + torch.rand(()))  # other in each process that would do it
        return bool(self.first_bias)

    def losses(self, batch: Sequence[Example]) -> dict[str, Tensor]:
        if len(self.seen) == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if len(self.seen) == self.term_at and os.environ.get("LOCAL_RANK", "0") == "0":
            subprocess.run(["kill", "-TERM", "--", f"-{os.getpgid(0)}"], check=False)  # ends itself, too
        self.seen.append([e.photo.id for e in batch])
        values = torch.tensor(
            [[float(torch.as_tensor(e.photo.pixels).float().mean() / 255)] for e in batch if len(e.regions)]
        )
        if len(values) == 0:
            return {"fit": torch.zeros(())}
        noise = 0.0 if self.plain else 0.1 * torch.randn(len(values), 1)
        found = self.line(values) if self.plain or len(values) == 1 else self.norm(self.line(values))
        loss = (found - 2 * values - noise).square().sum() / len(batch)
        return {"fit": loss * (float("nan") if len(self.seen) - 1 == self.nan_at else 1.0), "size": 0 * loss}

    def validate(self) -> dict[str, float]:
        return {"weight": self.line.weight.item(), "training": float(self.training)}

    def pictures(self) -> dict[str, Tensor]:
        return {"grey": torch.full((3, 8, 8), 128, dtype=torch.uint8)}

    def model(self) -> Model:
        return build_model(resolve(MODEL))


def settings(**changes: Any) -> RunSettings:
    defaults = {"steps": 12, "batch": 4, "lr": 0.05, "warmup": 3, "workers": 0, "checkpoint_every": 4, "clip": 1.0}
    return RunSettings.of({**defaults, "accelerator": "cpu", "validate_every": 5, "log_every": 2, **changes})


if __name__ == "__main__":
    from objemb.checks import TerminatedError
    from objemb.cli.errors import exit_code
    from objemb.training.runner import fit

    folder, *pairs = sys.argv[1:]
    changes = {k: float(v) if "." in v else int(v) for k, v in (p.split("=") for p in pairs)}
    torch.manual_seed(0)
    task = SmallTask(
        kill_at=int(changes.pop("kill_at", -1)),
        term_at=int(changes.pop("term_at", -1)),
        examples=Dots(int(changes.pop("count", 7))),
        plain=bool(changes.pop("plain", False)),
        begin=changes.pop("begin", 0.0),
    )
    try:
        fit(task, settings(**changes), folder, quiet=True)
    except TerminatedError as error:
        print(f"small: {error}", file=sys.stderr)
        sys.exit(exit_code(error))
    rank = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0)))
    torch.save({"state": dict(task.state_dict()), "seen": task.seen}, f"{folder}.rank{rank}.pt")
