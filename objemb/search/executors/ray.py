"""Tasks on a Ray cluster."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from objemb.checks import ObjembError
from objemb.registry import plugin
from objemb.search.executors.base import Executor, Start, packed_error, raise_packed

#: Tasks of one data set of Ray: their photos are listed, and in memory, before the first of them is described.
WAVE = 4096
#: How often a task is tried again, and an actor started again, after their process or machine died.
TASK_RETRIES, ACTOR_RESTARTS = 2, 8


@plugin
class Ray(Executor):
    """Actors of Ray Data, one worker each; with GPUs in the cluster, one for each GPU.

    A machine that dies takes its tasks with it; Ray gives them to others.

    Args:
        address: ``HOST:PORT`` of the cluster's head, of which this machine is a node (Ray Data does not run through a
            Ray client); None for the cluster that ``RAY_ADDRESS`` names or, without it, a Ray of this machine alone
            that lives as long as the job.
    """

    expected = "ray://head:6379, or ray"

    def __init__(self, *, address: str | None = None) -> None:
        self.address = address
        self.threads = 1

    @classmethod
    def at(cls, place: str) -> Ray:
        """``ray`` or ``ray://HOST:PORT``."""
        host, _, port = place.rpartition(":")
        if place and not (host and port.isdecimal()):
            raise ValueError(f"--on: expected a place such as {cls.expected}, found {place!r}")
        return cls(address=place or None)

    def map(self, start: Start, tasks: Iterable[bytes], *, threads: int, accelerated: bool) -> Iterator[bytes]:
        """See :meth:`Executor.map`."""
        ray = _ray()
        ours = not ray.is_initialized()
        if ours:
            _connect(ray, self.address)
        try:
            source = iter(tasks)
            while wave := list(islice(source, WAVE)):
                yield from _results(ray, start, wave, threads, accelerated)
        finally:
            if ours:
                ray.shutdown()


class _Actor:
    """Holds the worker; errors are part of the result, since Ray takes all that are raised for those of a task."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._worker: Any = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        results: list[bytes] = []
        kind = text = ""
        try:
            if self._worker is None:
                self._worker = self._start(0)
            results = [self._worker(bytes(task)) for task in batch["task"]]
        except Exception as error:
            results = [b""]
            kind, text = packed_error(error)
        numbers = [int(number) for number in batch["number"]][: len(results)]
        return {"number": numbers, "result": results, "kind": [kind] * len(results), "text": [text] * len(results)}


def _results(ray: Any, start: Start, wave: list[bytes], threads: int, accelerated: bool) -> Iterator[bytes]:
    import ray.data as data

    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0)) if accelerated else 0
    actors = min(len(wave), gpus or max(1, int(resources.get("CPU", 1)) // threads))
    context = data.DataContext.get_current()
    context.max_errored_blocks = -1  # a task whose processes die is missing among the results
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it logs each lost task with a traceback
    items = [{"number": number, "task": task} for number, task in enumerate(wave)]
    described = data.from_items(items, override_num_blocks=len(wave)).map_batches(
        _Actor,
        fn_constructor_args=(start,),
        batch_size=1,
        compute=data.ActorPoolStrategy(min_size=1, max_size=actors, initial_size=actors),
        num_cpus=threads,
        num_gpus=1 if gpus else None,
        # Ray 2.64 is to take these two in another way
        max_restarts=ACTOR_RESTARTS,
        max_task_retries=TASK_RETRIES,
    )
    missing = dict(enumerate(wave))
    for row in described.iter_rows():
        if row["kind"]:
            raise_packed(row["kind"], row["text"])
        missing.pop(row["number"], None)
        yield row["result"]
    if len(wave) > 1:  # tasks that waited for an actor die with it: each by itself shows which of them kills
        for task in missing.values():
            yield from _results(ray, start, [task], threads, accelerated)


def _connect(ray: Any, address: str | None) -> None:
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {} if where != "local" else {"include_dashboard": False}
    try:
        ray.init(where, log_to_driver=False, logging_level="WARNING", **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ObjembError(
            f"--on: expected a Ray cluster at {where} of which this machine is a node, found: {error}"
        ) from error


def _ray() -> Any:
    """The library, told to send no reports about its use."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise ImportError(f"--on ray needs Ray ({error}): pip install 'objemb[ray]'") from error
    return ray
