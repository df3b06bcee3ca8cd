"""One thread that computes: requests of the same time share its passes, and a bounded queue holds the others."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Condition, Thread
from typing import Generic, TypeVar

from objemb.serve.limits import Limits
from objemb.serve.problems import busy

J = TypeVar("J")
T = TypeVar("T")

#: Jobs over which the mean time of one is taken, which tells clients of a full queue when to come again.
RECENT_JOBS = 50


class Batcher(Generic[J, T]):
    """Runs jobs in batches on a thread of its own.

    While a batch is computed, the next one gathers. An idle thread waits for further jobs only if some were announced,
    so that a single client never waits for others.

    Args:
        run: Computes a batch: one result or exception per job, in order.
        limits: ``queue``, ``batch`` and ``window`` of these.
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
        self._job_seconds = 0.0
        self._closed = False
        self._change = Condition()
        self._thread = Thread(target=self._work, name="objemb-compute", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Number of jobs that wait."""
        return len(self._waiting)

    @contextmanager
    def announced(self) -> Iterator[None]:
        """A block in which a job is being prepared, which an idle thread waits for, for the window at most.

        Raises:
            Problem: The queue is full, with the jobs that are being prepared.
        """
        with self._change:
            self._expect_room(self._announced)
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
            Problem: The queue is full.
        """
        future: Future[T] = Future()
        with self._change:
            self._expect_room()
            self._waiting.append((job, future))
            self._change.notify_all()
        return future

    def _expect_room(self, prepared: int = 0) -> None:
        """Refuse a job while the queue is full, until about half of it will be done."""
        if len(self._waiting) + prepared >= self._limits.queue or self._closed:
            raise busy("requests", self._limits.queue, seconds=self._job_seconds * self._limits.queue / 2)

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
        end = time.monotonic() + self._limits.window
        while self._announced > 0 and len(self._waiting) < self._limits.batch and not self._closed:
            left = end - time.monotonic()
            if left <= 0 or not self._change.wait(left):
                return

    def _compute(self, batch: Sequence[tuple[J, Future[T]]]) -> None:
        begun = time.monotonic()
        try:
            results = self._run([job for job, _ in batch])
        except Exception as error:
            results = [error] * len(batch)
        self._job_seconds += (time.monotonic() - begun - self._job_seconds * len(batch)) / RECENT_JOBS
        for (_, future), result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
