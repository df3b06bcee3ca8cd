"""How many threads there are to be, and how those behind a network wait for each other."""

from __future__ import annotations

import os


def wait_without_spinning() -> None:
    """Let OpenMP threads sleep while they wait, unless the environment says otherwise.

    By default they spin, which is right for a process that has all cores for itself. objemb decodes photos beside the
    network, and machines are shared: as soon as anything else runs, each layer waits for a thread that spins on a core
    where another should work. Sleeping costs microseconds a layer and has no such cliff.

    Works only before torch is imported, and so is called by programs, never by the library.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def compute_with(threads: int) -> None:
    """Let all libraries of this process compute with so many threads: networks, and products of NumPy and PyTorch.

    Works only before NumPy and PyTorch are imported, and so is called by programs, never by the library.
    """
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(threads)


def usable_threads() -> int:
    """Threads that work which is divided by hand may take: what ``OMP_NUM_THREADS`` says, as to all other libraries, or
    the processors that this process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
