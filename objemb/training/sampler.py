"""Which examples a step learns from, and the seeds in it: functions of the run's seed and the step's number alone."""

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

    Epoch ``e`` is a permutation of all examples that follows from ``(seed, e)``; epochs are joined to one endless
    sequence, of which step ``k`` takes the places from ``k batch`` on, and process ``r`` of ``R`` every ``R``-th of
    those. So within an epoch no example comes twice, the processes share none, and any step can be the first.

    Args:
        length: Number of examples.
        batch: Examples of a step, of all processes together.
        seed: Of the permutations.
        steps: ``range`` of the steps that iterating gives.
        rank, processes: Which process of how many.
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
        """The numbers of one step."""
        places = range(step * self.batch + self.rank, (step + 1) * self.batch, self.processes)
        return [int(_permutation(self.seed, p // self.length, self.length)[p % self.length]) for p in places]


def step_seed(seed: int, step: int, rank: int) -> int:
    """A seed, 0 to 2^32 - 1, for everything random that a process does in a step."""
    return int(generator("step", seed, step, rank).integers(2**32))


def seed_everything(seed: int) -> None:
    """Seed the global generators of torch (all devices), numpy and Python; 0 to 2^32 - 1."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, length: int) -> Int64Array:
    return generator("order", seed, epoch).permutation(length)
