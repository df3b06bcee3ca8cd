"""Slow and clear: what vectorised figures are compared with."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def slow_ranks(ranking: Sequence[int], positives: Collection[int], junk: Collection[int]) -> list[int]:
    """Walks down the list, as the benchmarks describe it."""
    ranks, place = [], 0
    for item in ranking:
        if item in junk:
            continue
        if item in positives:
            ranks.append(place)
        place += 1
    return ranks
