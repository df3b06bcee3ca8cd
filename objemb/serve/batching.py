"""Queries of the same time share passes over the index, and a bounded number of requests is at work."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Condition, Thread
from time import monotonic
from typing import Generic, TypeVar

from objemb.serve.limits import Limits
from objemb.serve.problems import Problem, busy

J = TypeVar("J")
T = TypeVar("T")

#: Requests over which the mean time of one is taken, which tells clients of a full service when to come again.
RECENT_REQUESTS = 50


class Room:
    """Counts the requests that are at work or wait for it, from one event loop.

    Args:
        limits: ``queue`` of these.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._taken = 0
        self._mean_seconds = 0.0

    def __len__(self) -> int:
        """Number of requests that are at work or wait."""
        return self._taken

    @contextmanager
    def taken(self) -> Iterator[None]:
        """A block in which a request takes its place.

        Raises:
            Problem: There is no room. The request may come again when half of those before it will be done: those in a
                full service take turns, so that this is half the time that each of them takes.
        """
        if self._taken >= self._limits.queue:
            raise busy("requests", self._limits.queue, seconds=self._mean_seconds / 2)
        self._taken += 1
        begun = monotonic()
        try:
            yield
        finally:
            self._taken -= 1
            self._mean_seconds += (monotonic() - begun - self._mean_seconds) / RECENT_REQUESTS


class Batcher(Generic[J, T]):
    """Runs jobs in batches on a thread of its own.

    While a batch is computed, the next one gathers. An idle thread waits for further jobs only if some were announced,
    so that a single client never waits for others.

    Args:
        run: Computes a batch: one result or exception per job, in order.
        limits: ``batch`` and ``window`` of these.
        on_batch: Called with the number of jobs of each batch.
    """

    def __init__(
        self,
        run: Callable[[Sequence[J]], Sequence[T | Exception]],
        limits: Limits,
        on_batch: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._run = run
        self._limits = limits
        self._on_batch = on_batch
        self._waiting: deque[tuple[J, Future[T]]] = deque()
        self._announced = 0
        self._closed = False
        self._change = Condition()
        self._thread = Thread(target=self._work, name="objemb-search", daemon=True)
        self._thread.start()

    @contextmanager
    def announced(self) -> Iterator[None]:
        """A block in which a job is being prepared, which an idle thread waits for, for the window at most."""
        with self._change:
            self._announced += 1
        try:
            yield
        finally:
            with self._change:
                self._announced -= 1
                self._change.notify_all()

    def submit(self, job: J) -> Future[T]:
        """Queue a job.

        Raises:
            Problem: No more are taken.
        """
        future: Future[T] = Future()
        with self._change:
            if self._closed:
                raise Problem(503, "service: expected one that answers, found one that is stopping", retry=1)
            self._waiting.append((job, future))
            self._change.notify_all()
        return future

    def close(self) -> None:
        """Compute what was queued, and end the thread."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                self._gather()
                count = min(len(self._waiting), self._limits.batch)
                taken = [self._waiting.popleft() for _ in range(count)]
            # those whose client has gone are left out
            batch = [(job, future) for job, future in taken if future.set_running_or_notify_cancel()]
            if batch:
                self._on_batch(len(batch))
                self._compute(batch)

    def _gather(self) -> None:
        end = monotonic() + self._limits.window
        while self._announced > 0 and len(self._waiting) < self._limits.batch and not self._closed:
            left = end - monotonic()
            if left <= 0 or not self._change.wait(left):
                return

    def _compute(self, batch: Sequence[tuple[J, Future[T]]]) -> None:
        try:
            results = self._run([job for job, _ in batch])
        except Exception as error:
            results = [error] * len(batch)
        for (_, future), result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
