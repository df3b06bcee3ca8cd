"""The batches of a run, from processes that load them.

Examples go from process to process by pickle. They hold arrays, which are plain bytes on that way; tensors would be
files in shared memory, several for each photo, and many systems allow too few of them.
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
    """Why an example could not be made. As a value it comes through as one line, whatever process it comes from; an
    exception would bring the other process's traceback as its text.
    """

    reason: str


class _Guarded(Dataset[Example | Failed]):
    """Examples, or why there are none."""

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
    """What the steps from ``start`` on learn from: lists of examples, see :func:`expect_examples`.

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
    """The batch, if all of its examples could be made.

    Raises:
        TrainingError: One of them could not be made.
    """
    if isinstance(batch, Failed):
        raise TrainingError(batch.reason)
    return batch


def _collate(examples: Sequence[Example | Failed]) -> list[Example] | Failed:
    failed = next((e for e in examples if isinstance(e, Failed)), None)
    return [e for e in examples if isinstance(e, Example)] if failed is None else failed


def _outlive_sigterm(worker: int) -> None:
    """What asks a whole job to end asks this process too, but the run needs it until its step is done, and then ends it
    by the same signal: it counts who sends it. Where the system does not tell, the signal does what it always does.
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
