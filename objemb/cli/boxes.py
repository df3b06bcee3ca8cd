"""Boxes that come from a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from objemb.detectors.base import Detector


def stored_boxes(file: Path | None) -> Detector | None:
    """The boxes of ``--boxes``."""
    from objemb import registry

    return None if file is None else registry.build("detectors", {"name": "stored_boxes", "file": str(file)})
