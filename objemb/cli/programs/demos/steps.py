"""Steps that run commands; a finished step is not run again."""

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

#: Increased when the output format of a step changes, so that output of earlier versions is made again.
FORM = 2


@dataclass(frozen=True)
class Step:
    """A command that writes a file or folder.

    Attributes:
        name: One word, the name of its stamp.
        title: Description for the user.
        command: Program and arguments; ``python`` and ``objemb`` are those of this environment.
        makes: The output. It is removed before the step is repeated, because some programs resume from existing output.
        needs: Steps that this one depends on; it is repeated when they are.
    """

    name: str
    title: str
    command: tuple[str, ...]
    makes: Path
    needs: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The command as it would be typed in a shell."""
        return shlex.join(self.command)


class StepFailedError(RuntimeError):
    """A step failed; the results of earlier steps are kept."""


def run_steps(steps: Sequence[Step], folder: Path, total: int) -> None:
    """Run the steps that are not finished, in order, and write a stamp for each.

    A stamp is a digest of the command, the version, the format and the stamps of the steps that it needs: when one of
    them changes, all steps that depend on it are repeated. A step that was interrupted resumes from its own output.

    Raises:
        StepFailedError: A command failed; the error names the command and its exit code.
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
    """The stamp of a step: ``mark``, ``command``, ``seconds`` (None until it is finished); empty before it starts."""
    return read_facts(folder / "done" / f"{name}.json")


def read_facts(file: Path) -> dict[str, object]:
    """Contents of a JSON file; empty if it is missing or damaged, so that the step is repeated."""
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
