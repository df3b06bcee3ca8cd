"""A short run of the program that kills writers and corrupts files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "torture_index.py"


@pytest.mark.parametrize("kind", ["vectors", "words"])
def test_a_short_torture(tmp_path: Path, kind: str) -> None:
    command = [
        sys.executable,
        str(TOOL),
        "--kind",
        kind,
        "--kills",
        "6",
        "--corruptions",
        "60",
        "--seed",
        "5",
        "--folder",
        str(tmp_path),
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    result = json.loads(run.stdout)
    assert result["passed"]
    assert result["corruption"]["detected"] == 60
    assert result["killing"]["generations"] > 0


def test_a_few_migrations_are_killed(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    few = ["--kills", "0", "--corruptions", "0", "--migrations", "2", "--folder", str(tmp_path)]
    run = subprocess.run([sys.executable, str(TOOL), *few], capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    migrating = json.loads(run.stdout)["migrating"]
    assert migrating["failures"] == []
    assert migrating["answers"] > 0
    assert migrating["publications"] > 2
