from __future__ import annotations

from objemb.datasets.seeds import generator, round_robin


def test_numbers_are_the_same_on_every_machine() -> None:
    assert generator("scene", 0, "test", 3).integers(0, 1000, 4).tolist() == KNOWN


def test_every_key_counts() -> None:
    drawn = {int(generator(*keys).integers(2**60)) for keys in [("a", 1), ("a", 2), ("b", 1), ("a", "1"), ("a", 1, 0)]}
    assert len(drawn) == 5


KNOWN = [514, 522, 662, 123]


def test_round_robin_is_fair_among_every_fifth() -> None:
    order = [3, 1, 0, 4, 2]
    assert [round_robin(order, n) for n in range(7)] == [3, 1, 0, 4, 2, 1, 0]
    assert sorted(round_robin(order, n) for n in range(0, 25, 5)) == [0, 1, 2, 3, 4]
