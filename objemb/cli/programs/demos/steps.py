"""Steps that are commands: each is run once, and what is done is not done again."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from objemb.cli.output import note
from objemb.disk import write_whole
from objemb.version import __version__

#: Counted up when the form of what a step writes changes: what was written before is then made again.
FORM = 2


@dataclass(frozen=True)
class Step:
    """A command that makes something.

    Attributes:
        name: One word, the name of its stamp.
        title: What it does, for people.
        command: Program and arguments; ``python`` and ``objemb`` are those of this environment.
        makes: What it makes: removed before the step is run anew, for programs that go on with what they find.
        needs: Steps whose repetition makes this one stale.
    """

    name: str
    title: str
    command: tuple[str, ...]
    makes: Path
    needs: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The command as one would type it."""
        return shlex.join(self.command)


class StepFailedError(RuntimeError):
    """A step failed; the results of earlier steps are kept."""


def run_steps(steps: Sequence[Step], folder: Path, total: int) -> None:
    """Run what is not yet done, in order, with a stamp for each.

    A stamp is a digest of the command, the version, the form and the stamps of the steps that it builds upon: when one
    of them changes, all that follows from it is made anew. A step that was interrupted goes on with what it has left.

    Raises:
        StepFailedError: A command failed; its exit code and text are named.
    """
    marks: dict[str, str] = {}
    for number, step in enumerate(steps, 1):
        made_from = json.dumps([step.command, __version__, FORM, [marks[name] for name in step.needs]])
        marks[step.name] = hashlib.sha256(made_from.encode()).hexdigest()
        stamp = {"mark": marks[step.name], "seconds": None, "command": step.text}
        earlier = read_stamp(folder, step.name)
        if earlier.get("mark") != marks[step.name]:
            _remove(step.makes)
            _write_stamp(folder, step.name, stamp)
        elif earlier["seconds"] is not None:
            note(f"[{number}/{total}] {step.title}: done before, in {earlier['seconds']:.0f} s")
            continue
        note(f"[{number}/{total}] {step.title}")
        note(f"$ {step.text}")
        start = time.perf_counter()
        code = run_command(step.command)
        if code:
            raise StepFailedError(f"{step.title}: expected exit code 0, found {code} from: {step.text}")
        _write_stamp(folder, step.name, {**stamp, "seconds": time.perf_counter() - start})


def read_stamp(folder: Path, name: str) -> dict[str, Any]:
    """What is known of a step: ``mark``, ``command``, ``seconds`` (None until it is done); empty before it began."""
    return read_facts(folder / "done" / f"{name}.json")


def read_facts(file: Path) -> dict[str, object]:
    """What a JSON file says; nothing where it is not there, or damaged: what it told of is then made again."""
    try:
        facts = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def run_command(command: Sequence[str]) -> int:
    """Run ``python ...`` or ``objemb ...`` of this environment; returns the exit code."""
    program, *arguments = command
    installed = {"python": [sys.executable], "objemb": [sys.executable, "-m", "objemb"]}
    return subprocess.run([*installed[program], *arguments], check=False).returncode


def _remove(made: Path) -> None:
    if made.is_dir():
        shutil.rmtree(made)
    else:
        made.unlink(missing_ok=True)


def _write_stamp(folder: Path, name: str, facts: dict[str, Any]) -> None:
    file = folder / "done" / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(facts, indent=1) + "\n")
