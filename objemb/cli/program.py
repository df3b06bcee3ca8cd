"""Shared by the larger programs: list options, and the record of how figures were measured."""

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
        """Append the values to those of earlier occurrences; the first one replaces the default."""
        said = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*values] if said is self.default else [*said, *values])


def environment(program: str, argv: Sequence[str], *, device: str, seed: int) -> dict[str, object]:
    """The record beside every figure: command, time, versions, machine and seed."""
    return {
        "command": f"{program} {shlex.join(argv)}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()},
        "device": device,
        "threads": torch.get_num_threads(),
        "seed": seed,
    }
