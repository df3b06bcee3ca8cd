"""The larger programs behind the one command, and their scripts under ``tools/``."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from objemb.cli.app import COMMANDS, PROGRAMS, command_line

ROOT = Path(__file__).parents[2]


def objemb(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(command_line(arguments), list(arguments))
    return result.exit_code, result.output


def test_every_program_is_listed() -> None:
    code, text = objemb("--help")
    assert code == 0
    assert all(f" {name} " in text for name in PROGRAMS)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["info", "index"], {"info", "index"}),
        (["--log-file", "serve", "model", "list"], {"serve", "model"}),
        (["train", "--help"], {"train"}),
        (["sarch", "photos"], {*COMMANDS, *PROGRAMS}),
        ([], {*COMMANDS, *PROGRAMS}),
    ],
)
def test_only_commands_that_the_words_name_are_imported(words: list[str], expected: set[str]) -> None:
    app = command_line(words)
    assert {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups} == (
        expected
    )


def test_an_unknown_command_is_answered_with_those_that_are_alike() -> None:
    code, text = objemb("sarch")
    assert code == 2
    assert "sarch" in text
    assert "search" in text


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_answer_with_their_own_options(name: str) -> None:
    code, text = objemb(name, "--help")
    assert code == 0
    assert text.startswith(f"usage: objemb {name} ")
    code, text = objemb(name, "--no-such-option")
    assert code == 2
    assert f"objemb {name}: error: " in text


def test_words_reach_a_program_as_they_were_written(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr("objemb.cli.programs.evaluate.run", lambda argv: seen.append(list(argv)))
    words = ["mac", "-o", "x", "a=1", "--set", "a b", "-h", "--boxes=c", "-q"]
    assert objemb("evaluate", *words)[0] == 0
    assert objemb("evaluate", "--set", "a", "mac")[0] == 0
    assert seen == [words, ["--set", "a", "mac"]]


def test_errors_end_a_program_with_one_line_and_an_exit_code(tmp_path: Path) -> None:
    code, text = objemb("evaluate", "mac", "--set", str(tmp_path / "none.json"))
    assert code == 2
    assert text.startswith("objemb evaluate: ")
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize("name", PROGRAMS)
def test_scripts_of_a_checkout_are_the_same_programs(name: str) -> None:
    script = ROOT / "tools" / f"{name.replace('-', '_')}.py"
    text = script.read_text(encoding="utf-8")
    assert f'main(["{name}", *sys.argv[1:]])' in text


def test_a_script_and_the_module_run() -> None:
    for command in (["tools/train.py"], ["-m", "objemb", "train"]):
        done = subprocess.run(
            [sys.executable, *command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert done.stdout.startswith("usage: objemb train ")


def test_a_wheel_holds_the_configs_and_the_programs(tmp_path: Path) -> None:
    """As ``pip install`` makes it, without network: the build back end of this environment."""
    code = f"import setuptools.build_meta as b; print(b.build_wheel({str(tmp_path)!r}))"
    source = tmp_path / "source"
    source.mkdir()
    for name in ("objemb", "configs", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        (source / name).symlink_to(ROOT / name)

    subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    methods = {f"objemb/configs/methods/{f.name}" for f in (ROOT / "configs" / "methods").glob("*.yaml")}
    training = {f"objemb/configs/train/{f.name}" for f in (ROOT / "configs" / "train").glob("*.yaml")}
    assert methods | training | {"objemb/configs/quickstart.yaml", "objemb/py.typed"} <= names
    assert {f"objemb/cli/programs/{entry.partition(':')[0]}.py" for entry, _ in PROGRAMS.values()} <= names
    assert not [n for n in names if n.endswith(".py") and "/configs/" in n]
