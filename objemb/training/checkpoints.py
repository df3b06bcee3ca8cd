"""The state of a run on disk."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from objemb.checks import TrainingError
from objemb.disk import beside, left_beside, replacing

log = logging.getLogger(__name__)

#: The files, within the folder of the checkpoints.
LAST, BEFORE = "last.pt", "before.pt"
#: What a file begins with; a SHA-256 in hexadecimal and a line feed follow, and then what ``torch.save`` writes.
MAGIC = b"objemb checkpoint 1 "
HEADER = len(MAGIC) + 64 + 1


class Checkpoints:
    """The last good state of a run, and the one before it, in case the last is damaged.

    A new one is written beside the old ones, brought to the disk and renamed into its place; a process that dies, or a
    disk that is full, meanwhile leaves the old ones as they were. Files begin with a checksum of all that follows and
    hold tensors and plain values only.

    Args:
        folder: Of the checkpoints.
    """

    def __init__(self, folder: Path) -> None:
        self.file, self.before = folder / LAST, folder / BEFORE
        self._sound = True  # whether the last one may take the place of the one before

    @property
    def exist(self) -> bool:
        """Whether there is one, damaged or not."""
        return self.file.is_file() or self.before.is_file()

    def save(self, state: Mapping[str, object]) -> None:
        """Write the next checkpoint; of those that were there, the last one remains.

        Raises:
            TrainingError: It could not be written; the message says why, and what is left.
        """
        header, content = _packed(state)
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            if self._sound and self.file.is_file():
                self._keep()
            for partial in left_beside(self.file):  # of a run that was killed; it may be large
                partial.unlink(missing_ok=True)
            with replacing(self.file) as partial, partial.open("wb") as stream:
                stream.write(header)
                stream.write(content)
        except OSError as error:
            intact = next((file for file in (self.file, self.before) if file.is_file()), None)
            left = "there is none before it" if intact is None else f"the one before it is intact: {intact}"
            raise TrainingError(
                f"checkpoint of step {state['step']}: expected to write {len(header) + len(content)} bytes to "
                f"{self.file.parent}, found {error.strerror or error}; {left}. Make room and start the same run again"
            ) from error
        self._sound = True

    def load(self) -> dict[str, Any] | None:
        """The last state, on the CPU; the one before where that is damaged, which is logged; None where none is yet.

        Raises:
            TrainingError: There are files, and none of them is a checkpoint without damage.
        """
        damage: list[str] = []
        for file in (self.file, self.before):
            if not file.is_file():
                continue
            try:
                state = _unpacked(file)
            except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
                reason = "objects other than tensors" if isinstance(error, pickle.UnpicklingError) else error
                damage.append(f"{file}: expected a checkpoint of a run, found damage ({reason})")
                continue
            self._sound = not damage
            if damage:
                log.warning("%s; going on from the one before, after step %s", damage[0], state["step"])
            return state
        if damage:
            raise TrainingError(f"{'; '.join(damage)}. Put back a copy, or pass --force (force=True) to start anew")
        return None

    def _keep(self) -> None:
        """The last one gets a second name, so that there is one in its place at every moment."""
        second = beside(self.before)
        try:
            os.link(self.file, second)
        except OSError:  # a file system without links: for a moment the last one has the name of the one before
            os.replace(self.file, self.before)
        else:
            os.replace(second, self.before)


def _packed(state: Mapping[str, object]) -> tuple[bytes, bytes]:
    """Header and content of a file; an error of the disk is then one of the file, not of the serialiser.

    Bytes, not a view of the buffer: Python 3.12 crashes when it collects a ``BytesIO`` and a view of it in one cycle,
    and the error of a full disk makes such a cycle of its frames.
    """
    stream = io.BytesIO()
    torch.save(dict(state), stream)
    content = stream.getvalue()
    return _header(content), content


def _header(content: bytes) -> bytes:
    return MAGIC + hashlib.sha256(content).hexdigest().encode("ascii") + b"\n"


def _unpacked(file: Path) -> dict[str, Any]:
    """The state in a file, which must be what was written to the last bit."""
    with file.open("rb") as stream:
        header = stream.read(HEADER)
        if not header.startswith(MAGIC):
            raise ValueError("it does not begin as one")
        content = stream.read()
    if header != _header(content):
        raise ValueError("its checksum does not fit")
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or "step" not in state:
        raise ValueError("no step in it")
    return state
