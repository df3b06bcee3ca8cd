from __future__ import annotations

import torch

from objemb.models.reservoir import Reservoir


def filled(most: int, count: int, block: int) -> Reservoir:
    sample = Reservoir(most)
    for rows in torch.arange(float(count))[:, None].split(block):
        sample.add(rows)
    return sample


def test_few_vectors_all_stay() -> None:
    assert filled(10, 10, 3).vectors().flatten().tolist() == list(range(10))


def test_many_are_an_even_sample_in_order() -> None:
    sample = filled(500, 20_000, 64)
    rows = sample.vectors().flatten()
    assert sample.seen == 20_000
    assert len(rows) == 500
    assert torch.equal(rows, rows.unique()), "in order, none twice"
    quarters = torch.histc(rows, 4, 0, 20_000)
    assert ((quarters - 125).abs() < 40).all()
    assert abs(float((rows % 2).mean()) - 0.5) < 0.1


def test_memory_is_bounded() -> None:
    sample = Reservoir(100)
    most = 0
    for _ in range(200):
        sample.add(torch.zeros(50, 1))
        most = max(most, sum(len(part) for part in sample._kept))
    assert most <= 200


def test_repeats_and_may_be_asked_twice() -> None:
    first, second = filled(50, 1000, 32), filled(50, 1000, 32)
    assert torch.equal(first.vectors(), second.vectors())
    assert torch.equal(first.vectors(), second.vectors())
    first.add(torch.full((500, 1), 7.0))
    assert len(first.vectors()) == 50


def test_nothing_came_by() -> None:
    assert Reservoir(3).vectors().shape == (0, 0)
    sample = Reservoir(3)
    sample.add(torch.zeros(0, 5))
    assert len(sample.vectors()) == 0


def test_what_was_handed_in_is_not_kept() -> None:
    rows = torch.ones(4, 2)
    sample = Reservoir(10)
    sample.add(rows)
    rows.zero_()
    assert sample.vectors().tolist() == [[1, 1]] * 4
