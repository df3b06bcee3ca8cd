"""Paired comparison of two methods on the same queries, with a bootstrap confidence interval."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from objemb import checks
from objemb.types import Float64Array

#: Number of bootstrap samples, and confidence level of the interval.
DRAWS, CONFIDENCE = 2000, 0.95
#: With fewer groups of queries than this, the interval is not reliable.
FEWEST_GROUPS = 5


@dataclass(frozen=True)
class Difference:
    """A mean difference per query.

    Attributes:
        mean: Mean over the queries that count on both sides; NaN if there are none.
        low: Lower end of the 95 % confidence interval of the mean.
        high: Upper end of the interval.
        queries: Number of queries that count.
        groups: Number of independent groups of these queries.
    """

    mean: float
    low: float
    high: float
    queries: int
    groups: int

    @property
    def decided(self) -> bool:
        """Whether there are enough groups for a reliable interval."""
        return self.groups >= FEWEST_GROUPS

    @property
    def above(self) -> bool:
        """Whether the first side is significantly better."""
        return self.decided and self.low > 0

    @property
    def below(self) -> bool:
        """Whether the second side is significantly better."""
        return self.decided and self.high < 0


def paired_difference(
    first: Float64Array, second: Float64Array, groups: Sequence[Hashable], seed: int = 0
) -> Difference:
    """The mean of ``first - second`` and its confidence interval, by a bootstrap over groups of queries.

    The results of queries of the same object are correlated, so whole groups of queries are resampled with replacement;
    the interval is the percentile interval (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter
    13).

    Args:
        first: float64 ``(Q,)``, the metric of each query; NaN for a query that does not count.
        second: float64 ``(Q,)``, the same for the second method.
        groups: The group of each query, such as the instance that it shows.
        seed: Seed of the bootstrap.
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
    """Whether two sides are equal within ``margin``: True if the interval is within it, False if outside, otherwise
    None."""
    checks.positive("margin", margin)
    if not difference.decided:
        return None
    if -margin <= difference.low and difference.high <= margin:
        return True
    return False if difference.low > margin or difference.high < -margin else None
