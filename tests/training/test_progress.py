from __future__ import annotations

import pytest

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
