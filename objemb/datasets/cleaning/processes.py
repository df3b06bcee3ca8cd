"""Work on a feature store in several processes, in order, with few tasks on the way."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from objemb.checks import ObjembError
from objemb.datasets.cleaning.pairs import VerifiedPairs
from objemb.datasets.cleaning.settings import CleaningSettings
from objemb.datasets.cleaning.store import FeatureStore, MatchedTile, StoredPhoto
from objemb.ops.opencv import use_threads
from objemb.types import Int64Array

T = TypeVar("T")
R = TypeVar("R")

#: Photos of a task of finding features.
CHUNK = 8
#: How many threads libraries of linear algebra start by themselves.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def find_features(photos: Sequence[StoredPhoto]) -> list[tuple[int, int] | str]:
    """See :meth:`FeatureStore.find_features`."""
    (store,) = _store
    return [store.find_features(photo) for photo in photos]


def match_tile(task: tuple[Sequence[StoredPhoto], Int64Array, Int64Array]) -> MatchedTile:
    """See :meth:`FeatureStore.match`: the photos of a tile, its pairs with numbers of these, and with final numbers."""
    (store,) = _store
    photos, pairs, numbers = task
    tile = store.match(photos, pairs)
    verified = tile.verified
    final = numbers[verified.photos]
    return MatchedTile(tile.counts, VerifiedPairs(final, verified.inliers, verified.affines, verified.boxes))


class Workers:
    """Processes that share a feature store.

    Args:
        folder: Folder of the store.
        settings: How photos are matched.
        count: Number of processes; with one, the work is done in this process.
    """

    def __init__(self, folder: Path, settings: CleaningSettings, count: int) -> None:
        self.count = count
        self._start = (folder, settings)
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        if self.count > 1:
            context = multiprocessing.get_context("spawn")  # a forked child may inherit locks held by other threads
            self._pool = ProcessPoolExecutor(self.count, context, _start_worker, self._start)
        else:
            _store[:] = [FeatureStore(*self._start)]
        return self

    def __exit__(self, *exception: object) -> None:
        _store.clear()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, work: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """``work`` of each task, in order; tasks are taken as they are needed.

        Raises:
            ObjembError: A process was killed, as by a system that is short of memory.
        """
        if self._pool is None:
            yield from map(work, tasks)
            return
        waiting: deque[Future[R]] = deque()
        try:
            with _one_thread_each():
                for task in tasks:
                    waiting.append(self._pool.submit(work, task))
                    if len(waiting) > 3 * self.count:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise ObjembError(
                f"cleaning: expected {self.count} processes that keep running, found that one was killed. Systems that "
                "are short of memory do so: use fewer --workers. The same command continues where this one ended"
            ) from error


_store: list[FeatureStore] = []


def _start_worker(folder: Path, settings: CleaningSettings) -> None:
    use_threads(1)
    _store[:] = [FeatureStore(folder, settings)]
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process if the one that started it was killed: it would wait for tasks forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes that are started within have one thread for linear algebra: there are as many as there are cores."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
