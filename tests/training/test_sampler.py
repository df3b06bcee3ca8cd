from __future__ import annotations

import pytest

from objemb.training.sampler import StepSampler, step_seed


@pytest.mark.parametrize(("length", "batch"), [(7, 3), (5, 5), (3, 8)])
def test_an_epoch_shows_every_example_once(length: int, batch: int) -> None:
    row = [n for step in StepSampler(length, batch, 0, range(20)) for n in step]
    assert len(row) == 20 * batch
    epochs = [row[i : i + length] for i in range(0, len(row) - length + 1, length)]
    assert all(sorted(epoch) == list(range(length)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_any_step_can_be_the_first() -> None:
    whole = list(StepSampler(11, 4, 3, range(9)))
    assert list(StepSampler(11, 4, 3, range(5, 9))) == whole[5:]
    assert len(StepSampler(11, 4, 3, range(5, 9))) == 4
    assert list(StepSampler(11, 4, 4, range(9))) != whole


def test_processes_share_a_step_without_overlap() -> None:
    for step in range(6):
        parts = [StepSampler(10, 6, 0, range(6), rank=r, processes=3).of(step) for r in range(3)]
        assert [len(p) for p in parts] == [2, 2, 2]
        assert sorted(n for p in parts for n in p) == sorted(StepSampler(10, 6, 0, range(6)).of(step))


def test_seeds_differ_by_step_and_process() -> None:
    seeds = {step_seed(seed, step, rank) for seed in range(3) for step in range(20) for rank in range(2)}
    assert len(seeds) == 120
    assert all(0 <= s < 2**32 for s in seeds)
    assert step_seed(0, 5, 0) == step_seed(0, 5, 0)
