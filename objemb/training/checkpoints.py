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

#: File names in the folder of the checkpoints.
LAST, BEFORE = "last.pt", "before.pt"
#: First bytes of a file; then follow a SHA-256 in hexadecimal, a line feed and the output of ``torch.save``.
MAGIC = b"objemb checkpoint 1 "
HEADER = len(MAGIC) + 64 + 1


class Checkpoints:
    """The last checkpoint of a run, and the one before it in case the last is damaged.

    A new checkpoint is written to a temporary file, synced and renamed, so a crash or a full disk leaves the existing
    ones intact. A file begins with a checksum of its content and holds only tensors and plain values.

    Args:
        folder: The folder of the checkpoints.
    """

    def __init__(self, folder: Path) -> None:
        self.file, self.before = folder / LAST, folder / BEFORE
        self._sound = True  # whether the last one may replace the one before

    @property
    def exist(self) -> bool:
        """Whether a checkpoint exists, damaged or not."""
        return self.file.is_file() or self.before.is_file()

    def save(self, state: Mapping[str, object]) -> None:
        """Write a new checkpoint and keep the one before it.

        Raises:
            TrainingError: It could not be written; the message gives the reason and the intact checkpoint, if any.
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
            left = "there is no earlier one" if intact is None else f"the previous one is intact: {intact}"
            raise TrainingError(
                f"checkpoint of step {state['step']}: expected to write {len(header) + len(content)} bytes to "
                f"{self.file.parent}, found {error.strerror or error}; {left}. Free some space and run the same "
                f"command again"
            ) from error
        self._sound = True

    def load(self) -> dict[str, Any] | None:
        """The last state, on the CPU, or None if there is no checkpoint yet.

        If the last checkpoint is damaged, a warning is logged and the one before it is loaded.

        Raises:
            TrainingError: All existing checkpoints are damaged.
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
                log.warning("%s; resuming from the previous one, after step %s", damage[0], state["step"])
            return state
        if damage:
            raise TrainingError(f"{'; '.join(damage)}. Restore a copy, or pass --force (force=True) to start anew")
        return None

    def _keep(self) -> None:
        """Link the last checkpoint to its second name, so that one is in place at every moment."""
        second = beside(self.before)
        try:
            os.link(self.file, second)
        except OSError:  # a file system without links: renaming leaves the place of the last one empty for a moment
            os.replace(self.file, self.before)
        else:
            os.replace(second, self.before)


def _packed(state: Mapping[str, object]) -> tuple[bytes, bytes]:
    """Header and content of a file, serialised in memory so that disk errors are raised by the file.

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
    """The state in a file, after verifying its checksum."""
    with file.open("rb") as stream:
        header = stream.read(HEADER)
        if not header.startswith(MAGIC):
            raise ValueError("unknown header")
        content = stream.read()
    if header != _header(content):
        raise ValueError("wrong checksum")
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or "step" not in state:
        raise ValueError("no step")
    return state
