"""The batches of a run, loaded in separate processes.

Examples are passed between processes by pickle. They hold NumPy arrays, which are pickled as plain bytes; tensors would
become files in shared memory, several per photo, and many systems allow too few of those.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from torch.utils.data import DataLoader, Dataset

from objemb.checks import ObjembError, TrainingError
from objemb.training.data.base import Example, Examples
from objemb.training.sampler import StepSampler
from objemb.training.settings import RunSettings


@dataclass(frozen=True)
class Failed:
    """The reason why an example could not be loaded. It is a value, so that the message stays one line; an exception
    from another process would carry that process's traceback as its text.
    """

    reason: str


class _Guarded(Dataset[Example | Failed]):
    """Examples; one that raises an error is replaced by a :class:`Failed`."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __getitem__(self, number: int) -> Example | Failed:
        try:
            return self.examples[number]
        except (ObjembError, ValueError, TypeError, OSError, ImportError) as error:
            return Failed(f"example {number}: {error}")


def batches(
    examples: Examples, settings: RunSettings, start: int, *, rank: int = 0, processes: int = 1
) -> DataLoader[Example | Failed]:
    """The batches of the steps from ``start`` on: lists of examples, see :func:`expect_examples`.

    Raises:
        ValueError: There are no examples.
    """
    if len(examples) == 0:
        raise ValueError("data: expected at least one example, found none")
    steps = range(start, settings.steps)
    order = StepSampler(len(examples), settings.batch, settings.seed, steps, rank=rank, processes=processes)
    return DataLoader(
        _Guarded(examples),
        batch_sampler=order,
        num_workers=settings.workers,
        collate_fn=_collate,
        worker_init_fn=_outlive_sigterm,
    )


def expect_examples(batch: list[Example] | Failed) -> list[Example]:
    """The batch, if all of its examples were loaded.

    Raises:
        TrainingError: One of them could not be loaded.
    """
    if isinstance(batch, Failed):
        raise TrainingError(batch.reason)
    return batch


def _collate(examples: Sequence[Example | Failed]) -> list[Example] | Failed:
    failed = next((e for e in examples if isinstance(e, Failed)), None)
    return [e for e in examples if isinstance(e, Example)] if failed is None else failed


def _outlive_sigterm(worker: int) -> None:
    """Ignore SIGTERM unless the run itself sends it.

    A scheduler signals every process of a job, but the run needs this one until its step is done and then ends it by
    the same signal. Where the sender of a signal is not available, SIGTERM keeps its default effect.
    """
    del worker
    if not hasattr(signal, "sigwaitinfo"):
        return
    parent, signals = os.getppid(), {signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)

    def end_with_parent() -> None:
        while signal.sigwaitinfo(signals).si_pid != parent:
            pass
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
