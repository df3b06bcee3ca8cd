from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("detectron2")

from tests.training.test_detectron2 import command

pytestmark = pytest.mark.detectron2
TOOL = Path(__file__).parents[2] / "tools" / "torture_detectron2.py"


def test_two_kills(tmp_path: Path) -> None:
    training = command(tmp_path, "unused", "SOLVER.MAX_ITER", "12", "SOLVER.STEPS", "()")[:-2]
    asked = [sys.executable, str(TOOL), "--kills", "2", "-o", str(tmp_path / "out"), "--", *training]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report == {"kills": 2, "checkpoints": 6, "equal": True}
