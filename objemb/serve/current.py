"""The state of the index that is served, replaced as soon as a newer one is published."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock, Thread

from objemb.checks import ArtefactMismatchError, ObjembError
from objemb.images.decode import MAX_PIXELS
from objemb.index.opening import open_index
from objemb.search.opening import open_retrieval
from objemb.search.retrieval import Retrieval

log = logging.getLogger(__name__)

#: Seconds between looks at the index: a publication is served after this and the time of opening it.
WATCH_SECONDS = 0.5
#: Seconds between attempts to open a publication that cannot be opened: at first, and at most.
RETRY_SECONDS, MOST_RETRY_SECONDS = 5.0, 60.0


@dataclass(frozen=True)
class Opening:
    """How an index is opened with its model: at the start, and when a migration has put another model's rows there.

    Attributes:
        index: Where the index lives.
        model: The model folder that the user names; None for the one that the index names.
        device, precision, runtime, threads, max_pixels: As for :func:`open_retrieval`.
    """

    index: str | Path
    model: Path | None = None
    device: str = "cpu"
    precision: str | None = None
    runtime: str | None = None
    threads: int | None = None
    max_pixels: int = MAX_PIXELS

    def first(self) -> Retrieval:
        """The index with its model. Raises as :func:`open_retrieval`."""
        return self._open(self.model)

    def again(self) -> Retrieval:
        """The index with the model that made its rows: the named one if it was replaced, or the one that the index
        names. Raises as :func:`open_retrieval`."""
        if self.model is None:
            return self._open(None)
        try:
            return self._open(self.model)
        except (ArtefactMismatchError, FileNotFoundError):
            return self._open(None)

    def _open(self, model: Path | None) -> Retrieval:
        return open_retrieval(
            self.index,
            model,
            device=self.device,
            precision=self.precision,
            runtime=self.runtime,
            threads=self.threads,
            max_pixels=self.max_pixels,
        )


class Current:
    """Holds the retrieval of the newest publication. Searches that have begun finish on the one they began with.

    Args:
        retrieval: What is served at first.
        reopen: Opens the index with another model, after a migration; takes as long as loading that model.
        on_change: Called after each look at a new publication: with whether it is served.

    Attributes:
        refused: Why a newer publication is not served; None if the newest one is.
    """

    def __init__(
        self,
        retrieval: Retrieval,
        reopen: Callable[[], Retrieval],
        on_change: Callable[[bool], None] = lambda served: None,
    ) -> None:
        self._retrieval = retrieval
        self._reopen = reopen
        self._on_change = on_change
        self._lock = Lock()
        self._mark = self._look()
        self._refusals = 0
        self._next_try = 0.0
        self._stop = Event()
        self.refused: str | None = None
        self._thread = Thread(target=self._watch, name="objemb-watch", daemon=True)

    @property
    def retrieval(self) -> Retrieval:
        """The newest state of the index that could be opened, with its model: both change together."""
        return self._retrieval

    def start(self) -> None:
        """Look for publications from now on."""
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def follow(self) -> None:
        """Serve the newest publication. After a migration its model is loaded first, while the old generation goes on
        answering. What cannot be opened is refused and logged; the old generation stays."""
        with self._lock:
            mark = self._look()
            try:
                self._retrieval = self._newest()
            except Exception as error:  # whatever loading a model may raise
                self._refuse(error)
                self._on_change(False)
                return
            self._mark, self.refused, self._refusals = mark, None, 0
            self._on_change(True)

    def _newest(self) -> Retrieval:
        before = self._retrieval
        try:
            newest = before.index.newest()
        except ArtefactMismatchError:
            begun = time.monotonic()
            opened = self._reopen()
            newest, model = opened.index, opened.model
            log.info(
                "another model is served after %.1f s of loading it: %s", time.monotonic() - begun, model.fingerprint
            )
        else:
            if newest is before.index:
                return before
            model = before.model
        len(newest)  # reads what every search needs, before one waits for it
        return Retrieval(model, newest, max_pixels=before.max_pixels, find_photo=before.find_photo)

    def _refuse(self, error: Exception) -> None:
        is_known = isinstance(error, (ObjembError, OSError, ValueError))
        migrated = self._is_of_another_model()
        kind = "its model cannot be opened" if migrated else "it cannot be opened"
        if kind != self.refused:
            log.error("the new publication is not served, %s: %s", kind, error, exc_info=None if is_known else error)
        self.refused = kind
        self._refusals += 1
        self._next_try = time.monotonic() + min(RETRY_SECONDS * self._refusals, MOST_RETRY_SECONDS)

    def _is_of_another_model(self) -> bool:
        before = self._retrieval.index
        try:
            return open_index(before.address).fingerprint != before.fingerprint
        except (ObjembError, OSError, ValueError):
            return False

    def _watch(self) -> None:
        while not self._stop.wait(WATCH_SECONDS):
            if self._look() != self._mark and time.monotonic() >= self._next_try:
                self.follow()

    def _look(self) -> object:
        """What tells a publication from the one before; None where that cannot be found out."""
        return self._retrieval.index.mark()
