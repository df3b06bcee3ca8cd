"""Paired comparison of two rankings of the same queries, with a bootstrap interval."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from objemb import checks
from objemb.types import Float64Array

#: Draws of the bootstrap, and the share of them that the interval holds.
DRAWS, CONFIDENCE = 2000, 0.95
#: Fewer groups of queries than this say too little about others of their kind to decide anything.
FEWEST_GROUPS = 5


@dataclass(frozen=True)
class Difference:
    """A mean difference per query.

    Attributes:
        mean: Over the queries that both sides count; NaN when there are none.
        low: Lower end of the interval in which the mean lies with 95 % confidence.
        high: Its upper end.
        queries: How many queries count.
        groups: How many independent groups they form.
    """

    mean: float
    low: float
    high: float
    queries: int
    groups: int

    @property
    def decided(self) -> bool:
        """Whether there are groups enough to believe the interval."""
        return self.groups >= FEWEST_GROUPS

    @property
    def above(self) -> bool:
        """Whether the first side is better, beyond chance."""
        return self.decided and self.low > 0

    @property
    def below(self) -> bool:
        """Whether the second side is better, beyond chance."""
        return self.decided and self.high < 0


def paired_difference(
    first: Float64Array, second: Float64Array, groups: Sequence[Hashable], seed: int = 0
) -> Difference:
    """The mean of ``first - second`` and its interval, by a bootstrap over groups of queries.

    Queries of the same object rise and fall together, so that not single queries but whole groups are drawn, with
    replacement; the interval is that of the percentiles (Efron and Tibshirani, "An Introduction to the Bootstrap",
    1993, chapter 13).

    Args:
        first: float64 ``(Q,)``, a figure per query; NaN for one that does not count.
        second: float64 ``(Q,)``, likewise.
        groups: Per query what it shares with others, such as the instance that it shows.
        seed: Of the draws.
    """
    differences = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    if differences.ndim != 1 or len(groups) != len(differences):
        raise ValueError(f"groups: expected one for each of {differences.shape} figures, found {len(groups)}")
    counted = ~np.isnan(differences)
    numbers = {group: n for n, group in enumerate(dict.fromkeys(g for g, c in zip(groups, counted, strict=True) if c))}
    if not numbers:
        return Difference(float("nan"), float("nan"), float("nan"), 0, 0)
    whose = [numbers[g] for g, c in zip(groups, counted, strict=True) if c]
    sums = np.bincount(whose, differences[counted])
    sizes = np.bincount(whose)
    draws = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=DRAWS)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile((draws @ sums) / (draws @ sizes), [tail, 1 - tail])
    return Difference(float(sums.sum() / sizes.sum()), float(low), float(high), len(whose), len(sums))


def equal_within(difference: Difference, margin: float) -> bool | None:
    """Whether two sides are equal within ``margin``: True if the interval lies within, False if beyond, else None."""
    checks.positive("margin", margin)
    if not difference.decided:
        return None
    if -margin <= difference.low and difference.high <= margin:
        return True
    return False if difference.low > margin or difference.high < -margin else None
