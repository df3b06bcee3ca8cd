from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from objemb.cli import progress
from objemb.cli.logs import configure
from objemb.cli.output import complain, note
from objemb.cli.progress import Progress, clock
from tests.cli.conftest import Run, draw


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    configure()
    logging.getLogger("objemb").handlers.clear()
    logging.getLogger("objemb").setLevel(logging.NOTSET)


def say() -> None:
    log = logging.getLogger("objemb.somewhere")
    log.debug("a detail")
    log.info("done \x1b")
    log.warning("left out: %s", "a\u202eb.jpg")
    log.error("broken")
    note("a note")
    complain("objemb: no result")


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ({}, [r"warning: left out: a\u202eb.jpg", "error: broken", "a note", "objemb: no result"]),
        (
            {"verbose": 1},
            [r"info: done \x1b", r"warning: left out: a\u202eb.jpg", "error: broken", "a note", "objemb: no result"],
        ),
        (
            {"verbose": 5},
            [
                "debug: a detail",
                r"info: done \x1b",
                r"warning: left out: a\u202eb.jpg",
                "error: broken",
                "a note",
                "objemb: no result",
            ],
        ),
        ({"quiet": True}, ["error: broken", "objemb: no result"]),
    ],
)
def test_how_much_is_said(options: dict, lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    configure(**options)
    say()
    assert capsys.readouterr().err.splitlines() == lines


def test_downloads_are_logged_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    download = logging.getLogger("objemb.weights.download")
    configure()
    download.info("downloading x")
    download.debug("a detail")
    assert capsys.readouterr().err == "info: downloading x\n"
    configure(quiet=True)
    download.info("downloading x")
    assert capsys.readouterr().err == ""


def test_a_log_file_gets_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure(quiet=True, file=tmp_path / "log")
    say()
    configure(quiet=True, file=tmp_path / "log")  # a second command goes on behind it
    note("later \ud800")
    lines = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == [
        r"INFO done \x1b",
        r"WARNING left out: a\u202eb.jpg",
        "ERROR broken",
        "INFO a note",
        "ERROR objemb: no result",
        r"INFO later \ud800",
    ]
    assert capsys.readouterr().err.splitlines() == ["error: broken", "objemb: no result"]


def test_a_log_file_that_cannot_be_written_is_an_error(run: Run, tmp_path: Path) -> None:
    assert "nowhere" in run("--log-file", tmp_path / "nowhere" / "log", "info", tmp_path, code=2).stderr


def test_the_library_sets_nothing_up() -> None:
    code = (
        "import logging, objemb, objemb.models, objemb.index.store, objemb.evaluation.evaluate\n"
        "found = [n for n in ('', 'objemb', *logging.root.manager.loggerDict) if not n or n.startswith('objemb')]\n"
        "print([n for n in found if logging.getLogger(n).handlers])"
    )
    root = Path(__file__).parents[2]
    shown = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True
    )
    assert shown.stdout == "[]\n"


def test_options_of_a_command_line(run: Run, photos: Path, model: Path, tmp_path: Path) -> None:
    (photos / "broken.png").write_bytes(b"")
    log = tmp_path / "log"
    command = ("index", photos, "-o", tmp_path / "index", "--model", model)
    quiet = run("-q", "--log-file", log, *command, code=3)
    assert quiet.stderr == ""
    assert "broken.png" in log.read_text(encoding="utf-8")
    draw(photos / "7.png", 7)
    assert "broken.png" in run(*command, code=3).stderr


def test_off_a_terminal_a_line_is_said_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS", 0.01)
    monkeypatch.setattr(progress, "WORTH_TELLING", 0.0)
    with Progress() as display:
        assert display.counts
        meter = display.meter("indexing", "images", 8)
        meter.step()
        meter.step(2)
        while "left" not in (shown := capsys.readouterr().err):
            time.sleep(0.01)
        display.meter("searching", "queries", None)
    first = shown.splitlines()[-1]
    assert first.startswith("indexing: 3 of 8 images, ")
    assert first.endswith(" left")
    lines = capsys.readouterr().err.splitlines()
    assert "indexing: 3 images in 0:00" in lines
    assert lines[-1] == "searching: done in 0:00"


def test_quiet_shows_no_progress_but_the_log_file_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "WORTH_TELLING", 0.0)
    configure(quiet=True)
    with Progress() as display:
        assert not display.counts
        display.meter("indexing", "images", 8).step(8)
    configure(quiet=True, file=tmp_path / "log")
    with Progress() as display:
        assert display.counts
        display.meter("indexing", "images", 8).step(8)
    assert capsys.readouterr().err == ""
    assert (tmp_path / "log").read_text().splitlines()[-1].endswith("INFO indexing: 8 images in 0:00")


def test_an_error_ends_the_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "WORTH_TELLING", 0.0)

    def work() -> None:
        with Progress() as display:
            display.meter("indexing", "images", 8)
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        work()
    assert capsys.readouterr().err == ""
    assert not [thread for thread in threading.enumerate() if thread.name == "objemb-progress"]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61.4, "1:01"), (3599.7, "1:00:00"), (4000, "1:06:40")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
