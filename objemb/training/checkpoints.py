"""The state of a run on disk."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from objemb.disk import sync_folder
from objemb.training.errors import TrainingError

#: The file, within the folder of the checkpoints.
LAST = "last.pt"


class Checkpoints:
    """The last good state of a run: one file that is there completely or not at all.

    A new one is written beside the old one, brought to the disk and renamed into its place; a process that dies, or a
    disk that is full, meanwhile leaves the old one as it was. Files hold tensors and plain values only.

    Args:
        folder: Of the checkpoints.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / LAST

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint.

        Raises:
            TrainingError: It could not be written; the message says why, and what is left.
        """
        content = io.BytesIO()  # an error of the disk is then one of the file, not of the serialiser
        torch.save(dict(state), content)
        partial = self.file.with_name(f".{LAST}.partial")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            _write(partial, content.getbuffer())
            os.replace(partial, self.file)
            sync_folder(self.file.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            left = f"the one before it is intact: {self.file}" if self.file.is_file() else "there is none before it"
            raise TrainingError(
                f"checkpoint of step {state['step']}: expected to write {len(content.getbuffer())} bytes to "
                f"{self.file.parent}, found {error.strerror or error}; {left}. Make room and start the same run again"
            ) from error

    def load(self) -> dict[str, Any] | None:
        """The last state, on the CPU; None where there is none yet.

        Raises:
            TrainingError: The file is damaged or is no checkpoint.
        """
        if not self.file.is_file():
            return None
        try:
            state = torch.load(self.file, map_location="cpu", weights_only=True)
            if not isinstance(state, dict) or "step" not in state:
                raise ValueError("no step in it")
        except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
            reason = "objects other than tensors" if isinstance(error, pickle.UnpicklingError) else error
            raise TrainingError(f"{self.file}: expected a checkpoint of a run, found damage ({reason})") from error
        return state


def _write(file: Path, content: memoryview) -> None:
    with file.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
