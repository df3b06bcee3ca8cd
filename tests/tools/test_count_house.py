"""What is counted of the house, and what must not grow."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

# not by name: other checkouts on the path have a package "tools" as well
main = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "count_house.py"))["main"]


def test_counts_without_other_programs(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--fast", "--json"])
    counts = json.loads(capsys.readouterr().out)
    assert counts["pairs of rooms with arrows both ways"] == 0
    assert counts["lines of the longest module"] <= 550
    assert 10 < counts["files to open to follow a photo with a box to its answer"] <= 16
    assert 21 < counts["modules with a call between a photo with a box and its answer"] <= 48
    assert counts["rooms"] > 20


def test_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--fast"])
    head, line, *rows = capsys.readouterr().out.splitlines()
    assert (head, line) == ("| counted by `python tools/count_house.py` | |", "|---|---:|")
    assert all(row.count("|") == 3 for row in rows)
