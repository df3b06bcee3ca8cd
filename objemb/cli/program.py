"""What the larger programs share: how they end, and what they say of where figures were measured."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import torch

from objemb.cli.errors import INTERNAL, exit_code
from objemb.cli.interrupt import INTERRUPTED
from objemb.cli.output import note
from objemb.models.build import versions


def run_program(name: str, main: Callable[[], object], *, interrupted: str = "interrupted") -> None:
    """Run a program; what its user can mend becomes one line on stderr and an exit code, as for ``objemb`` itself.

    Args:
        name: Of the program, such as ``objemb train``.
        main: What it does.
        interrupted: What to say after Ctrl-C.
    """
    try:
        main()
    except (Exception, KeyboardInterrupt) as error:
        code = exit_code(error)
        if code == INTERNAL:
            raise
        for line in f"{name}: {interrupted if code == INTERRUPTED else error}".split("\n"):
            note(line)
        sys.exit(code)


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
