"""Progress of a run on stderr: a bar on a terminal, lines otherwise."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

#: Maximum seconds between two lines without a terminal.
SECONDS = 30.0


class RunProgress:
    """Shows the steps of a run until it is closed.

    Attributes:
        phase: Current activity, printed if nothing else was for a while.

    Args:
        steps: Number of steps of the whole run.
        start: Number of steps that are already done.
        quiet: Whether to show nothing.
    """

    def __init__(self, steps: int, start: int, *, quiet: bool = False) -> None:
        self.steps, self.start, self.quiet = steps, start, quiet
        console = Console(stderr=True)
        self.bar = console.is_terminal and not quiet
        self._display = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not self.bar,
        )
        self._task = self._display.add_task("training", total=steps, completed=start, figures="")
        self._display.start()
        self._begin = self._last_output = time.monotonic()
        self._done, self.phase = start, "training"
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._break_silence, name="objemb-training", daemon=True)
        if not self.bar and not quiet:
            self._thread.start()

    def step(self, done: int) -> None:
        """Report that ``done`` steps are done."""
        self._done = done
        self._display.update(self._task, completed=done)

    def figures(self, done: int, values: Mapping[str, float]) -> None:
        """Show figures after ``done`` steps, such as the terms of the loss."""
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self.bar:
            self._display.update(self._task, figures=shown)
            return
        rate = (done - self.start) / max(time.monotonic() - self._begin, 1e-9)
        self.note(f"step {done}/{self.steps}  {shown}  {rate:.2f} steps/s")

    def note(self, text: str) -> None:
        """Print a line of text."""
        if self.bar:
            self._display.console.print(text, markup=False, highlight=False)
        elif not self.quiet:
            self._last_output = time.monotonic()
            print(text, file=sys.stderr, flush=True)

    def _break_silence(self) -> None:
        while not self._closed.wait(max(0.01, self._last_output + SECONDS - time.monotonic())):
            if time.monotonic() - self._last_output >= SECONDS:
                self.note(f"step {self._done}/{self.steps}  {self.phase}")

    def close(self) -> None:
        """Remove the bar and stop."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()
        self._display.stop()
