from __future__ import annotations

import pytest

from objemb.cli.errors import USAGE
from objemb.cli.interrupt import INTERRUPTED
from objemb.cli.program import environment, run_program


def failing(error: BaseException):
    def main() -> None:
        raise error

    return main


def test_what_a_user_can_mend_is_told_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run_program("tools/x.py", failing(ValueError("expected a,\nfound \x1b")))
    assert caught.value.code == USAGE
    assert capsys.readouterr().err == "tools/x.py: expected a,\nfound \\x1b\n"


def test_interruption_says_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run_program("tools/x.py", failing(KeyboardInterrupt()), interrupted="it goes on")
    assert caught.value.code == INTERRUPTED
    assert capsys.readouterr().err == "tools/x.py: it goes on\n"


def test_a_fault_of_the_program_shows_where() -> None:
    with pytest.raises(ZeroDivisionError):
        run_program("tools/x.py", failing(ZeroDivisionError()))


def test_the_command_stands_beside_every_figure() -> None:
    found = environment("tools/x.py", ["a b", "--seed", "3"], device="cpu", seed=3)
    assert found["command"] == "tools/x.py 'a b' --seed 3"
    assert (found["device"], found["seed"]) == ("cpu", 3)
    assert {"objemb", "torch"} <= set(found["versions"])
