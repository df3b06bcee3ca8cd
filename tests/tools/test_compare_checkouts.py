from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARK = """
import os
from objemb.cli.programs.timing import alternate, ratio

FULL, SMALL = {"rounds": 5}, {"rounds": 2}

def work(side):
    print("noise")
    with open(os.environ["DIARY"], "a") as file:
        file.write(f"{__file__.split('/')[-4]} {side}\\n")

def run(sizes, seed):
    assert seed == 3
    times = alternate({side: lambda side=side: work(side) for side in SIDES}, sizes["rounds"])
    yield ratio("a over itself", times["a"], times["a"])
    assert os.environ["OMP_NUM_THREADS"] == "1"
"""


@pytest.fixture
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tools_compare_checkouts", ROOT / "tools" / "compare_checkouts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def checkout(folder: Path, sides: str) -> Path:
    benchmarks = folder / "tools" / "benchmarks"
    benchmarks.mkdir(parents=True)
    (folder / "objemb").symlink_to(ROOT / "objemb")
    (benchmarks / "diary.py").write_text(BENCHMARK.replace("SIDES", repr(sides)))
    (benchmarks / "broken.py").write_text("FULL, SMALL = {}, {}\n\ndef run(sizes, seed):\n    raise SystemExit(7)\n")
    return folder


def test_processes_take_turns(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before, now = checkout(tmp_path / "before", "abc"), checkout(tmp_path / "now", "ab")
    monkeypatch.setattr(tool, "ROOT", now)
    monkeypatch.setenv("DIARY", str(tmp_path / "diary"))
    report = tool.main(
        [os.path.relpath(before), "--only", "diary", "--small", "--seed", "3", "-o", str(tmp_path / "r")]
    )
    assert json.loads((tmp_path / "r").read_text()) == report
    names = ["a, in: a over itself", "b, in: a over itself"]
    assert [r["name"] for r in report["cases"]["diary"]] == names
    assert all(r["facts"]["rounds"] == 2 for r in report["cases"]["diary"])
    diary = [line.split() for line in (tmp_path / "diary").read_text().splitlines()]
    assert [checkout for checkout, _ in diary[:12]] == ["before", "now"] * 6
    assert diary[12:] == [["before", side] for side in "abc"]
    assert names[1] in capfd.readouterr().out


def test_ratios_are_those_of_what_both_measure(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times = {"a": [2.0, 6.0, 3.0], "b": [1.0] * 3}, {"a": [1.0, 2.0, 3.0], "c": [1.0] * 3}
    monkeypatch.setattr(tool, "_both", lambda case, options: times)
    (ratio,) = tool.main([str(ROOT)])["cases"]["search"]
    assert [ratio[key] for key in ("name", "value", "low", "high")] == ["a", 2.0, 1.0, 3.0]
    assert "2e+03" in capsys.readouterr().out


def test_a_benchmark_that_fails(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "ROOT", checkout(tmp_path / "now", "a"))
    with pytest.raises(RuntimeError, match=r"'broken'.*exited with code 7 before its measurements were complete"):
        tool.main([str(checkout(tmp_path / "before", "a")), "--only", "broken"])


def test_a_checkout_without_the_benchmark(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tool.main([str(tmp_path), "--only", "search"])
    assert f"expected a benchmark 'search' in {tmp_path}, found none" in capsys.readouterr().err
