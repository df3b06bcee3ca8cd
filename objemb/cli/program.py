"""What the larger programs share: lists on their command lines, and what is said of where figures were measured."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import torch

from objemb.models.build import versions


class Listed(argparse.Action):
    """An option that takes one value or several, and may be repeated: ``--on a b`` is ``--on a --on b``."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Lay the values behind those of earlier times; the first time replaces the default."""
        said = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*values] if said is self.default else [*said, *values])


def environment(program: str, argv: Sequence[str], *, device: str, seed: int) -> dict[str, object]:
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
