"""Boxes from a command line: of a file, or one by one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from objemb.detectors.base import Detector
    from objemb.models import Model
    from objemb.structures import Box


def stored_boxes(file: Path | None, model: Model) -> Detector | None:
    """The boxes of ``--boxes``, with their masks where the model's extractor attends to masks."""
    from objemb import registry

    if file is None:
        return None
    masks = model.settings["describer"].get("extractor", {}).get("masks", False)
    return registry.build("detectors", {"name": "stored_boxes", "file": str(file), "masks": masks})


def parse_box(text: str) -> Box:
    """The box of ``--box X1,Y1,X2,Y2``, edges in pixels."""
    try:
        x1, y1, x2, y2 = (float(v) for v in text.split(","))
    except ValueError:
        raise ValueError(f"--box: expected X1,Y1,X2,Y2 in pixels such as 40,60,180,220, found {text!r}") from None
    return (x1, y1, x2, y2)
