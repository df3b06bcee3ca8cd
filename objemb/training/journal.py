"""What a run writes down on its way: lines of JSON, and TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

LOG = "log.jsonl"
TENSORBOARD = "tensorboard"


class Journal:
    """Scalars and pictures of a run, by step.

    A run that goes on from step ``start`` forgets what an earlier, killed attempt wrote about the steps after it.

    Args:
        folder: Of the run; gets ``log.jsonl`` and ``tensorboard/``.
        start: Steps that were done before.
    """

    def __init__(self, folder: Path, start: int) -> None:
        self.file = folder / LOG
        kept = [line for line in self._lines() if _step(line) <= start]
        self.file.write_text("".join(kept), encoding="utf-8")
        self._board = _summary_writer()(str(folder / TENSORBOARD), purge_step=start + 1)

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Scalars of a kind, such as ``train`` or ``validation``, after ``step`` steps."""
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)

    def show(self, step: int, pictures: Mapping[str, Tensor]) -> None:
        """Pictures, uint8 ``(3, h, w)``, after ``step`` steps."""
        for name, picture in pictures.items():
            self._board.add_image(name, picture.cpu(), step)

    def close(self) -> None:
        """Bring everything to the disk."""
        self._board.close()

    def _lines(self) -> list[str]:
        return self.file.read_text(encoding="utf-8").splitlines(keepends=True) if self.file.is_file() else []


def _step(line: str) -> float:
    """The step of a line; a line that a kill cut off is as one from the end of time."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("training needs tensorboard: pip install 'objemb[train]'") from error
    return SummaryWriter
