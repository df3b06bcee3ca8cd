"""Queries of the same time are computed together, and a bounded number of requests is at work."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
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
    """Runs jobs in batches on threads of its own.

    While batches are computed, the next ones gather; threads that are idle at the same time share what waits. An idle
    thread waits for further jobs only if some were announced, so that a single client never waits for others.

    Args:
        run: Computes a batch: one result or exception per job, in order.
        name: Of the threads.
        most: Jobs of a batch.
        window: Seconds that an idle thread waits for announced jobs.
        threads: Batches that are computed at a time.
        kind: What the jobs of a batch have in common, so that none waits for slower ones of another kind.
        on_batch: Called with the number of jobs of each batch.
    """

    def __init__(
        self,
        run: Callable[[Sequence[J]], Sequence[T | Exception]],
        name: str,
        *,
        most: int,
        window: float,
        threads: int = 1,
        kind: Callable[[J], Hashable] = lambda job: None,
        on_batch: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._run = run
        self._most = most
        self._window = window
        self._kind = kind
        self._on_batch = on_batch
        self._waiting: deque[tuple[J, Future[T]]] = deque()
        self._announced = 0
        self._idle = threads
        self._closed = False
        self._change = Condition()
        self._threads = [Thread(target=self._work, name=name, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

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
        """Compute what was queued, and end the threads."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                self._gather()
                if not self._waiting:  # another thread has taken all
                    continue
                taken = self._next()
                self._idle -= 1
            # those whose client has gone are left out
            batch = [(job, future) for job, future in taken if future.set_running_or_notify_cancel()]
            if batch:
                self._on_batch(len(batch))
                self._compute(batch)
            with self._change:
                self._idle += 1

    def _next(self) -> list[tuple[J, Future[T]]]:
        """The jobs of the next batch: those of the kind that waits longest, or an idle thread's share of them."""
        first = self._kind(self._waiting[0][0])
        numbers = [number for number, (job, _) in enumerate(self._waiting) if self._kind(job) == first]
        numbers = numbers[: min(math.ceil(len(numbers) / self._idle), self._most)]
        taken = [self._waiting[number] for number in numbers]
        for number in reversed(numbers):
            del self._waiting[number]
        return taken

    def _gather(self) -> None:
        end = monotonic() + self._window
        while self._announced > 0 and len(self._waiting) < self._most and not self._closed:
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
