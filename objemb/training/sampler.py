"""The examples and seeds of a step, as functions of the run's seed and the step number only."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler

from objemb import checks
from objemb.datasets.seeds import generator
from objemb.types import Int64Array


class StepSampler(Sampler[list[int]]):
    """The numbers of the examples of each step, for one of several processes.

    Epoch ``e`` is a permutation of all examples, seeded by ``(seed, e)``. The epochs form one endless sequence, of
    which step ``k`` takes ``batch`` numbers from position ``k batch`` on, and process ``r`` of ``R`` every ``R``-th of
    those. So no example occurs twice within an epoch, processes share no example, and a run can resume at any step.

    Args:
        length: Number of examples.
        batch: Number of examples per step, over all processes.
        seed: Seed of the permutations.
        steps: ``range`` of the steps to iterate over.
        rank, processes: Number of this process, and of all processes.
    """

    def __init__(self, length: int, batch: int, seed: int, steps: range, *, rank: int = 0, processes: int = 1) -> None:
        self.length, self.batch = checks.whole("length", length), checks.whole("batch", batch)
        self.seed, self.steps = checks.whole("seed", seed, 0), steps
        self.rank, self.processes = checks.whole("rank", rank, 0), checks.whole("processes", processes)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[int]]:
        return (self.of(step) for step in self.steps)

    def of(self, step: int) -> list[int]:
        """The numbers of the examples of one step."""
        places = range(step * self.batch + self.rank, (step + 1) * self.batch, self.processes)
        return [int(_permutation(self.seed, p // self.length, self.length)[p % self.length]) for p in places]


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed, 0 to 2^32 - 1, of a process's random generators in a step."""
    return int(generator("step", seed, step, rank).integers(2**32))


def seed_everything(seed: int) -> None:
    """Seed the global generators of torch (all devices), numpy and Python; 0 to 2^32 - 1."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, length: int) -> Int64Array:
    return generator("order", seed, epoch).permutation(length)
