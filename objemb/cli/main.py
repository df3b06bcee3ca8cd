"""The entry point of the `objemb` script. Nothing is imported before Ctrl-C is heard."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from io import TextIOWrapper

from objemb.cli.interrupt import listen, stop_listening
from objemb.threads import wait_without_spinning


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line: that of the process, or ``argv``, the words behind the name of the program."""
    listen()
    wait_without_spinning()
    if isinstance(sys.stdout, TextIOWrapper):  # a name that the terminal cannot show must not end a command
        sys.stdout.reconfigure(errors="backslashreplace")

    from objemb.cli.app import app

    try:
        app(args=argv, prog_name="objemb")
    finally:
        stop_listening()
