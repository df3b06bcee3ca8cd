"""A run that is finished."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.runs import train
from tests.training.small import SmallTask


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SmallTask]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, train(folder, ema=0.5)
