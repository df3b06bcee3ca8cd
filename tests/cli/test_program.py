from __future__ import annotations

import argparse

import pytest
import typer

from objemb.cli.errors import INTERNAL, USAGE, Settings, one_line_errors
from objemb.cli.interrupt import INTERRUPTED, Work
from objemb.cli.program import Listed, environment

SHOWS = "('objemb --debug ...' shows where)"


def ended(error: BaseException) -> None:
    with one_line_errors("objemb x", "it goes on"):
        assert Work.begun, "Ctrl-C is an exception from here on"
        raise error


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ValueError("expected a, found \x1b"), USAGE, "expected a, found \\x1b"),
        (FileNotFoundError(2, "No such file or directory", "a.json"), USAGE, "a.json: No such file or directory"),
        (KeyboardInterrupt(), INTERRUPTED, "it goes on"),
        (ZeroDivisionError("by 0"), INTERNAL, f"internal error: ZeroDivisionError: by 0 {SHOWS}"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    error: BaseException, code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as caught:
        ended(error)
    assert caught.value.exit_code == code
    assert capsys.readouterr().err == f"objemb x: {text}\n"
    assert not Work.begun


def test_debug_shows_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Settings, "debug", True)
    with pytest.raises(ZeroDivisionError):
        ended(ZeroDivisionError())


def test_the_command_stands_beside_every_figure() -> None:
    found = environment("objemb x", ["a b", "--seed", "3"], device="cpu", seed=3)
    assert found["command"] == "objemb x 'a b' --seed 3"
    assert (found["device"], found["seed"]) == ("cpu", 3)
    assert {"objemb", "torch"} <= set(found["versions"])


def test_lists_take_several_values_and_may_be_repeated() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--on", nargs="+", action=Listed, default=["first"])

    def on(*words: str) -> list[str]:
        return parser.parse_args(words).on

    assert on() == ["first"]
    assert on("--on", "a", "b") == on("--on", "a", "--on", "b") == ["a", "b"]
    assert on() == ["first"], "the default is not written into"
