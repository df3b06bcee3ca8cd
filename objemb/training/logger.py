"""The log of a run: lines of JSON, and TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from objemb.disk import naming, write_whole

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG = "log.jsonl"
TENSORBOARD = "tensorboard"
#: Kinds of lines, in the order in which they are written after a step (alphabetical).
TRAIN, VALIDATION = "train", "validation"


class RunLogger:
    """Logs scalars and pictures of a run by step.

    When a run resumes from step ``start``, lines that an interrupted attempt wrote for later steps are removed.

    Args:
        folder: The run's folder; ``log.jsonl`` and ``tensorboard/`` are written to it.
        start: Number of steps that are already done.
        validated: Whether the validation after step ``start``, if one is due, is already done.
    """

    def __init__(self, folder: Path, start: int, *, validated: bool = True) -> None:
        self.file = folder / LOG
        known = (start, VALIDATION if validated else TRAIN)
        kept = [line for line in self._lines() if _place(line) <= known]
        write_whole(self.file, "".join(kept))
        self._board = _summary_writer()(str(folder / TENSORBOARD), purge_step=start + 1)

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Write the scalars of a kind, such as ``train`` or ``validation``, after ``step`` steps."""
        with naming(self.file), self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)

    def show(self, step: int, pictures: Mapping[str, Tensor]) -> None:
        """Write pictures, uint8 RGB ``(3, h, w)``, after ``step`` steps."""
        for name, picture in pictures.items():
            self._board.add_image(name, picture.cpu(), step)

    def close(self) -> None:
        """Write everything to disk and close the files."""
        self._board.close()

    def _lines(self) -> list[str]:
        return self.file.read_text("utf-8", "replace").splitlines(keepends=True) if self.file.is_file() else []


def _place(line: str) -> tuple[float, str]:
    """The step and kind of a line, ordered as written; infinity for a truncated line, so that it sorts last."""
    try:
        entry = json.loads(line)
        return float(entry["step"]), str(entry["kind"])
    except (ValueError, KeyError, TypeError):
        return float("inf"), ""


def _summary_writer() -> type[SummaryWriter]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("training needs tensorboard: pip install 'objemb[train]'") from error
    return SummaryWriter
