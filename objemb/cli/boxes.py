"""Boxes that come from a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from objemb.detectors.base import Detector
    from objemb.models import Model


def stored_boxes(file: Path | None, model: Model) -> Detector | None:
    """The boxes of ``--boxes``, with their masks where the model's extractor attends to masks."""
    from objemb import registry

    if file is None:
        return None
    masks = model.settings["describer"].get("extractor", {}).get("masks", False)
    return registry.build("detectors", {"name": "stored_boxes", "file": str(file), "masks": masks})
