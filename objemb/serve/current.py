"""The state of the index that is served, replaced as soon as a newer one is published."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from threading import Event, Lock, Thread

from objemb.checks import ArtefactMismatchError, ObjembError
from objemb.index.storage.manifest import MANIFEST_FILE
from objemb.search.retrieval import Retrieval

log = logging.getLogger(__name__)

#: Seconds between looks at the index: a publication is served after this and the time of opening it.
WATCH_SECONDS = 0.5
#: Seconds between attempts to open a publication that cannot be opened.
RETRY_SECONDS = 5.0


class Current:
    """Holds the retrieval of the newest publication. Searches that have begun finish on the one they began with.

    Args:
        retrieval: What is served at first.
        on_change: Called after each look at a new publication: with whether it is served.
    """

    def __init__(self, retrieval: Retrieval, on_change: Callable[[bool], None] = lambda served: None) -> None:
        self._retrieval = retrieval
        self._on_change = on_change
        self._lock = Lock()
        self._mark = self._look()
        self._refused_at = -RETRY_SECONDS
        self._stop = Event()
        self.refused: str | None = None
        self._thread = Thread(target=self._watch, name="objemb-watch", daemon=True)

    @property
    def retrieval(self) -> Retrieval:
        """The model with the newest state of the index that could be opened."""
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
        """Serve the newest publication; one that cannot be opened, or is of another model, is refused and logged."""
        with self._lock:
            mark = self._look()
            before = self._retrieval
            try:
                newest = before.index.newest()
                if newest is not before.index:
                    retrieval = Retrieval(
                        before.model, newest, max_pixels=before.max_pixels, find_photo=before.find_photo
                    )
                    len(newest)  # reads what every search needs, before one waits for it
                    self._retrieval = retrieval
            except (ObjembError, OSError, ValueError) as error:
                self._refused_at = time.monotonic()
                kind = "another model" if isinstance(error, ArtefactMismatchError) else "it cannot be opened"
                if self.refused is None:
                    log.error("the new publication is not served (%s): %s", kind, error)
                self.refused = kind
                self._on_change(False)
                return
            self._mark, self.refused = mark, None
            self._on_change(True)

    def _watch(self) -> None:
        while not self._stop.wait(WATCH_SECONDS):
            waited = time.monotonic() - self._refused_at >= RETRY_SECONDS
            if self._look() != self._mark and waited:
                self.follow()

    def _look(self) -> tuple[int, int, int] | None:
        """What tells a manifest from the one before; None where there is none."""
        try:
            status = os.stat(self._retrieval.index.path / MANIFEST_FILE)
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size
