from __future__ import annotations

import numpy as np
import pytest

from objemb.datasets.cleaning.graph import chosen_views, connected_photos


def lists(groups: list[np.ndarray]) -> list[list[int]]:
    return [group.tolist() for group in groups]


def test_components_by_hand() -> None:
    pairs = np.array([[5, 6], [0, 7], [4, 5], [2, 3]])
    groups = connected_photos(8, pairs)
    assert lists(groups) == [[4, 5, 6], [0, 7], [2, 3], [1]]
    assert lists(chosen_views(groups, None)) == [[4, 5, 6]]
    assert lists(chosen_views(groups, 2)) == [[4, 5, 6], [0, 7], [2, 3]]
    assert chosen_views(groups, 4) == []


@pytest.mark.parametrize("count", [0, 1, 3])
def test_without_pairs_nothing_is_chosen(count: int) -> None:
    groups = connected_photos(count, np.zeros((0, 2), np.int64))
    assert lists(groups) == [[n] for n in range(count)]
    assert chosen_views(groups, None) == chosen_views(groups, 2) == []


def test_the_same_as_a_slow_search() -> None:
    rng = np.random.default_rng(0)
    for edges in (5, 20, 60):
        pairs = rng.integers(0, 40, (edges, 2))
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        expected: set[frozenset[int]] = set()
        for start in range(40):
            reached, before = {start}, set[int]()
            while reached != before:
                before = set(reached)
                for a, b in pairs.tolist():
                    if a in reached or b in reached:
                        reached |= {a, b}
            expected.add(frozenset(reached))
        assert {frozenset(group.tolist()) for group in connected_photos(40, pairs)} == expected
