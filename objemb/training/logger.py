"""What a run writes down on its way: lines of JSON, and TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from objemb.disk import naming, write_whole

LOG = "log.jsonl"
TENSORBOARD = "tensorboard"
#: Kinds of lines; after a step they are written in this order, which is that of the alphabet.
TRAIN, VALIDATION = "train", "validation"


class RunLogger:
    """Scalars and pictures of a run, by step.

    A run that goes on from step ``start`` forgets what an earlier, killed attempt wrote about the steps after it.

    Args:
        folder: Of the run; gets ``log.jsonl`` and ``tensorboard/``.
        start: Steps that were done before.
        validated: Whether the validation after them is done as well, where there is one.
    """

    def __init__(self, folder: Path, start: int, *, validated: bool = True) -> None:
        self.file = folder / LOG
        known = (start, VALIDATION if validated else TRAIN)
        kept = [line for line in self._lines() if _place(line) <= known]
        write_whole(self.file, "".join(kept))
        self._board = _summary_writer()(str(folder / TENSORBOARD), purge_step=start + 1)

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Scalars of a kind, such as ``train`` or ``validation``, after ``step`` steps."""
        with naming(self.file), self.file.open("a", encoding="utf-8") as stream:
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
        return self.file.read_text("utf-8", "replace").splitlines(keepends=True) if self.file.is_file() else []


def _place(line: str) -> tuple[float, str]:
    """The step of a line and its kind, in the order of writing; a line that a kill cut off is from the end of time."""
    try:
        entry = json.loads(line)
        return float(entry["step"]), str(entry["kind"])
    except (ValueError, KeyError, TypeError):
        return float("inf"), ""


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("training needs tensorboard: pip install 'objemb[train]'") from error
    return SummaryWriter
