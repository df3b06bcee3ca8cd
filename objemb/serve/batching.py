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
        self._closed = False
        self._change = Condition()
        self._thread = Thread(target=self._work, name="objemb-compute", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Number of jobs that wait."""
        return len(self._waiting)

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
            Problem: The queue is full.
        """
        future: Future[T] = Future()
        with self._change:
            if len(self._waiting) >= self._limits.queue or self._closed:
                raise busy("requests", self._limits.queue)
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
        end = time.monotonic() + self._limits.window
        while self._announced > 0 and len(self._waiting) < self._limits.batch and not self._closed:
            left = end - time.monotonic()
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
