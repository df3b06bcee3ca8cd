"""The entry point of the `objemb` script. Ctrl-C is handled before anything else is imported."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from io import TextIOWrapper

from objemb.cli.interrupt import listen, stop_listening
from objemb.threads import wait_without_spinning


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line: that of the process, or ``argv``, the arguments after the program's name."""
    listen()
    wait_without_spinning()
    if isinstance(sys.stdout, TextIOWrapper):  # a name that the terminal cannot encode must not end a command
        sys.stdout.reconfigure(errors="backslashreplace")

    from objemb.cli.app import command_line

    app = command_line(sys.argv[1:] if argv is None else argv)
    try:
        app(args=argv, prog_name="objemb")
    finally:
        stop_listening()
