from __future__ import annotations

import math

import numpy as np
import pytest

from objemb.evaluation.paired import FEWEST_GROUPS, Difference, equal_within, paired_difference


def test_a_clear_difference_is_above_chance() -> None:
    random = np.random.default_rng(1)
    second = random.random(60)
    groups = [f"object {n // 3}" for n in range(60)]
    found = paired_difference(second + 0.1 + 0.02 * random.standard_normal(60), second, groups)
    assert found.low < found.mean < found.high
    assert found.mean == pytest.approx(0.1, abs=0.01)
    assert (found.above, found.below, found.queries, found.groups) == (True, False, 60, 20)
    assert paired_difference(second, second + 0.1, groups).below


def test_whole_groups_are_drawn() -> None:
    """Thirty queries of six objects say no more than six numbers do."""
    per_object = np.array([0.3, -0.2, 0.25, -0.1, 0.2, 0.1])
    many = paired_difference(np.repeat(per_object, 5), np.zeros(30), np.repeat(range(6), 5).tolist())
    few = paired_difference(per_object, np.zeros(6), list(range(6)))
    assert (many.low, many.high) == pytest.approx((few.low, few.high))
    assert not many.above


def test_queries_that_do_not_count() -> None:
    first, second = np.array([0.5, np.nan, 0.25]), np.array([0.25, 0.5, np.nan])
    found = paired_difference(first, second, ["a", "b", "c"])
    assert (found.mean, found.low, found.high, found.queries, found.groups) == (0.25, 0.25, 0.25, 1, 1)
    assert not found.above, "one object decides nothing"
    nothing = paired_difference(first * np.nan, second, ["a", "b", "c"])
    assert (nothing.queries, nothing.groups, math.isnan(nothing.mean)) == (0, 0, True)
    with pytest.raises(ValueError, match="groups: expected one for each"):
        paired_difference(first, second, ["a"])


@pytest.mark.parametrize(
    ("low", "high", "groups", "verdict"),
    [
        (-0.01, 0.015, 20, True),
        (0.03, 0.05, 20, False),
        (-0.05, -0.03, 20, False),
        (-0.01, 0.05, 20, None),
        (0.0, 0.01, FEWEST_GROUPS - 1, None),
    ],
)
def test_equal_but_for_a_margin(low: float, high: float, groups: int, verdict: bool | None) -> None:
    assert equal_within(Difference((low + high) / 2, low, high, 100, groups), 0.02) is verdict
