from __future__ import annotations

import time

import pytest

from objemb.training import progress as progress_module
from objemb.training.progress import RunProgress


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def show(progress: RunProgress) -> None:
    progress.step(6)
    progress.figures(6, {"loss": 0.123456})
    progress.note("half [way]")
    progress.close()


def test_lines_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show(RunProgress(8, 4))
    out, err = capsys.readouterr()
    first, second = err.splitlines()
    assert out == ""
    assert first.startswith("step 6/8  loss 0.1235  ")
    assert first.endswith(" steps/s")
    assert second == "half [way]"


def test_a_bar_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    show(RunProgress(8, 4))
    err = capsys.readouterr().err
    assert "6/8" in err
    assert "loss 0.1235" in err
    assert "half [way]" in err
    assert "steps/s" not in err


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    show(RunProgress(8, 4, quiet=True))
    assert capsys.readouterr() == ("", "")


def test_a_long_silence_is_broken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress_module, "SECONDS", 0.02)
    shown = RunProgress(10, 0)
    shown.step(4)
    shown.phase = "validating"
    while "validating" not in (told := capsys.readouterr().err):
        time.sleep(0.01)
    shown.close()
    assert "step 4/10  validating" in told.splitlines()
    capsys.readouterr()
    time.sleep(0.06)
    assert capsys.readouterr().err == "", "nothing more after the end"


def test_quiet_is_silent_however_long(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress_module, "SECONDS", 0.01)
    shown = RunProgress(10, 0, quiet=True)
    time.sleep(0.05)
    shown.close()
    assert capsys.readouterr().err == ""
