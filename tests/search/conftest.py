from __future__ import annotations

from tests.cli.conftest import index, model, photos, rmac, run

__all__ = ["index", "model", "photos", "rmac", "run"]
