"""Steps that are commands: each is run once, and what is done is not done again."""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from objemb.version import __version__

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Step:
    """A command that makes something.

    Attributes:
        name: One word, the name of its stamp.
        title: What it does, for people.
        command: Program and arguments, run in the root of the checkout; ``python`` and ``objemb`` are those of this
            environment.
        needs: Steps whose repetition makes this one stale.
    """

    name: str
    title: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The command as one would type it."""
        return shlex.join(self.command)


class StepFailedError(RuntimeError):
    """A step did not end well; the ones before it are kept."""


def run_steps(steps: Sequence[Step], folder: Path, total: int) -> None:
    """Run what is not yet done, in order, and leave a stamp after each.

    A stamp holds the command, the version and the stamps of the steps that it builds upon: when one of them changes,
    all that follow from it are made anew.

    Raises:
        StepFailedError: A command failed; its exit code and text are named.
    """
    marks: dict[str, str] = {}
    for number, step in enumerate(steps, 1):
        made_from = json.dumps([step.command, __version__, [marks[name] for name in step.needs]])
        marks[step.name] = hashlib.sha256(made_from.encode()).hexdigest()
        done = read_stamp(folder, step.name)
        if done.get("mark") == marks[step.name]:
            say(f"[{number}/{total}] {step.title}: done before, in {done['seconds']:.0f} s")
            continue
        say(f"[{number}/{total}] {step.title}\n$ {step.text}")
        start = time.perf_counter()
        code = run_command(step.command)
        if code:
            raise StepFailedError(f"{step.title}: expected exit code 0, found {code} from: {step.text}")
        seconds = time.perf_counter() - start
        _write_stamp(folder, step.name, {"mark": marks[step.name], "seconds": seconds, "command": step.text})


def read_stamp(folder: Path, name: str) -> dict[str, Any]:
    """What is known of a finished step: ``mark``, ``seconds``, ``command``; empty when it is not done."""
    file = folder / "done" / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def say(text: str) -> None:
    """A line for whoever is watching."""
    print(text, file=sys.stderr, flush=True)


def progress_bar() -> Progress:
    """A bar on the error output."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


def run_command(command: Sequence[str]) -> int:
    """Run ``python ...`` or ``objemb ...`` of this environment in the root of the checkout; returns the exit code."""
    program, *arguments = command
    installed = {"python": sys.executable, "objemb": str(Path(sys.executable).with_name("objemb"))}
    return subprocess.run([installed[program], *arguments], cwd=ROOT, check=False).returncode


def _write_stamp(folder: Path, name: str, facts: dict[str, Any]) -> None:
    file = folder / "done" / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    temporary.replace(file)
