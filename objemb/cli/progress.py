"""Progress of a command on stderr: a bar on a terminal, occasional lines otherwise."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from objemb.cli.output import Said, note, said
from objemb.search.approximate import build_approximate

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar

    from objemb.index.collection import ImageCollection

#: Seconds between two lines without a terminal.
SECONDS = 30.0
#: Work that took longer than this, in seconds, is reported when it is done.
WORTH_TELLING = 10.0


class Progress:
    """Shows its meters until the ``with`` block ends.

    Lines are printed by a separate thread, so that they appear even while a single step takes long.
    """

    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._meters: list[Meter] = []
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def counts(self) -> bool:
        """Whether progress is shown, so that counting the work is worthwhile."""
        return not Said.quiet or any(isinstance(handler, logging.FileHandler) for handler in said.handlers)

    def __enter__(self) -> Self:
        from rich.console import Console

        console = Console(stderr=True)
        if console.is_terminal and not Said.quiet:
            self._bar = _bar(console)
            self._bar.start()
        if self.counts:
            self._thread = threading.Thread(target=self._tell_now_and_then, name="objemb-progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()
        if self._bar is not None:
            self._bar.stop()
        if error is None and self._meters:
            self._meters[-1].end()

    def meter(self, what: str, unit: str, total: float | None) -> Meter:
        """Start a meter for the next part of the work, which ends the one before."""
        if self._meters:
            self._meters[-1].end()
        self._meters.append(Meter(self._bar, what, unit, total))
        return self._meters[-1]

    def resume(self, meter: Meter) -> None:
        """Resume a meter after those that were started later."""
        if self._meters[-1] is not meter:
            self._meters[-1].end()
            self._meters.append(meter)

    def tell(self) -> None:
        """Print a line on the current part of the work."""
        if self._meters:
            self._say(self._meters[-1].line())

    def _say(self, line: str) -> None:
        if self._bar is None:
            note(line)
        else:
            said.info(line)

    def _tell_now_and_then(self) -> None:
        while not self._done.wait(SECONDS):
            self.tell()


class Meter:
    """Counts steps and measures their rate.

    Args:
        bar: The display of a terminal, None without one.
        what: Name of the work, such as ``indexing``.
        unit: Name of the steps, such as ``images``.
        total: Number of steps, None if unknown.
    """

    def __init__(self, bar: Bar | None, what: str, unit: str, total: float | None) -> None:
        self.what, self.unit, self.total, self.count = what, unit, total, 0.0
        self._bar = bar
        self._task = None if bar is None else bar.add_task(what, total=total, rate="")
        self._began = time.monotonic()
        self._ended = False

    def step(self, count: float = 1) -> None:
        """Count ``count`` more steps as done."""
        self.count += count
        if self._bar is not None and self._task is not None:
            task = self._bar.tasks[self._bar.task_ids.index(self._task)]
            rate = f"{task.speed:.1f} {self.unit}/s" if task.speed else ""
            self._bar.update(self._task, advance=count, rate=rate)

    def line(self) -> str:
        """The progress as a line: ``indexing: 1200 of 5000 images, 12.3 images/s, 5:09 left``."""
        seconds = time.monotonic() - self._began
        if not self.count:
            return f"{self.what}: running for {clock(seconds)}"
        of = "" if self.total is None else f" of {self.total:.0f}"
        rate = f"{self.count / max(seconds, 1e-9):.1f} {self.unit}/s"
        parts = [f"{self.what}: {self.count:.0f}{of} {self.unit}", rate]
        if self.total is not None and 0 < self.count < self.total:
            parts.append(f"{clock(seconds * (self.total - self.count) / self.count)} left")
        else:
            parts.append(f"running for {clock(seconds)}")
        return ", ".join(parts)

    def end(self) -> None:
        """End the work; logs a line if it took long and no bar was shown."""
        seconds = time.monotonic() - self._began
        if self._ended or seconds < WORTH_TELLING:
            return
        self._ended = True
        counted = f"{self.count:.0f} {self.unit}" if self.count else "done"
        line = f"{self.what}: {counted} in {clock(seconds)}"
        if self._bar is None:
            note(line)
        else:
            said.info(line)


def show_build(index: ImageCollection, engine: Mapping[str, object] | None = None) -> None:
    """Build the structure for approximate search of a large index, if it needs one, and show the progress.

    Args:
        index: The index.
        engine: As of :func:`objemb.search.approximate.build_approximate`.
    """
    with Progress() as display:
        meters: list[Meter] = []

        def on_progress(done: int, total: int) -> None:
            if not meters:
                meters.append(display.meter("building", "vectors", total))
            meters[0].step(done - meters[0].count)

        build_approximate(index, engine, on_note=note, on_progress=on_progress)


def clock(seconds: float) -> str:
    """A duration for display: ``1:02:03``, or ``2:03`` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _bar(console: Console) -> Bar:
    """A progress bar with rate and remaining time."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    return Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(compact=True),
        console=console,
    )
