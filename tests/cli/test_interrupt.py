from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from objemb.cli.interrupt import INTERRUPTED

ROOT = Path(__file__).parents[2]
KILL = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"
#: Libraries do this around what they can do without.
SWALLOWS = f"try:\n    {KILL.replace(chr(10), chr(10) + '    ')}pass\nexcept BaseException:\n    pass\n"

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals between processes are those of POSIX")


def python(code: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*paths, ROOT)))}

    def hears() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, preexec_fn=hears, timeout=60
    )


@pytest.mark.parametrize(
    ("library", "command"), [("typer", "info x"), ("pyarrow", "info x"), ("torch", "model build mac -o x")]
)
@pytest.mark.parametrize("code", [KILL, SWALLOWS])
def test_ctrl_c_while_libraries_are_imported(library: str, command: str, code: str, tmp_path: Path) -> None:
    (tmp_path / f"{library}.py").write_text(code)
    call = f"from objemb.cli.main import main; main({command.split()})"
    ended = python(call, tmp_path)
    assert (ended.returncode, ended.stderr, ended.stdout) == (INTERRUPTED, "objemb: interrupted\n", "")


def test_a_command_at_work_may_clean_up() -> None:
    ended = python(
        "from objemb.cli.interrupt import Work, listen; listen(); Work.begun = True\n"
        f"try:\n    {KILL.replace(chr(10), chr(10) + '    ')}pass\nexcept KeyboardInterrupt:\n    print('cleaned up')\n"
    )
    assert (ended.returncode, ended.stdout) == (0, "cleaned up\n")


def test_the_handler_of_a_command_needs_no_import() -> None:
    ended = python(
        "import sys; sys.modules['torch'] = None\n"  # an import of it fails
        "from objemb.cli.errors import guarded\nimport typer\n"
        "@guarded\ndef command():\n    raise KeyboardInterrupt\n"
        "try:\n    command()\nexcept typer.Exit as end:\n    sys.exit(end.exit_code)\n"
    )
    assert ended.returncode == INTERRUPTED
    assert ended.stderr.splitlines() == [
        "objemb: interrupted; everything published is kept, and the same command resumes from there"
    ]


def test_a_process_in_the_background_stays_deaf() -> None:
    ended = python(
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from objemb.cli.interrupt import listen; listen()\n"
        f"{KILL}print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)\n"
    )
    assert (ended.returncode, ended.stdout) == (0, "True\n")


def test_a_command_that_has_ended_keeps_its_exit_code() -> None:
    """Ctrl-C while the interpreter is taken down."""
    code = (
        "import atexit, os, signal\n"
        "atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))\n"
        "from objemb.cli.main import main\n"
        "main(['--version'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()
