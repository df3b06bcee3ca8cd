"""What the larger programs say of where figures were measured."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import torch

from objemb.models.build import versions


def environment(program: str, argv: Sequence[str], *, device: str, seed: int) -> dict[str, Any]:
    """What stands beside every figure: the command, when, with which versions, on what machine, and the seed."""
    return {
        "command": f"{program} {shlex.join(argv)}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()},
        "device": device,
        "threads": torch.get_num_threads(),
        "seed": seed,
    }
