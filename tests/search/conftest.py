from __future__ import annotations

from tests.cli.conftest import index, model, newer, photos, rmac, run

__all__ = ["index", "model", "newer", "photos", "rmac", "run"]
