"""The entry point of the `objemb` script. Nothing is imported before Ctrl-C is heard."""

from __future__ import annotations

import sys
from io import TextIOWrapper

from objemb.cli.interrupt import listen
from objemb.threads import wait_without_spinning


def main() -> None:
    """Run the command line."""
    listen()
    wait_without_spinning()
    if isinstance(sys.stdout, TextIOWrapper):  # a name that the terminal cannot show must not end a command
        sys.stdout.reconfigure(errors="backslashreplace")

    from objemb.cli.app import app

    app()
