from __future__ import annotations

import math

import numpy as np
import pytest

from objemb.evaluation import metrics
from objemb.evaluation.paired import FEWEST_GROUPS, Difference, average_precisions, equal_within, paired_difference


def slow(scores: np.ndarray, positives: np.ndarray, junk: np.ndarray) -> float:
    if np.isnan(scores).any():
        return math.nan
    ranking = [i for i in sorted(range(len(scores)), key=lambda i: -scores[i]) if np.isfinite(scores[i])]
    ranks = metrics.ranks_without_junk(np.array(ranking, dtype=int), np.flatnonzero(positives), np.flatnonzero(junk))
    return metrics.average_precision(ranks, int((positives & ~junk).sum()))


def test_many_queries_at_once_as_one_after_the_other() -> None:
    random = np.random.default_rng(0)
    scores = random.integers(0, 6, (40, 12)).astype(np.float32)  # many ties
    scores[random.random(scores.shape) < 0.2] = -np.inf
    scores[7] = np.nan
    positives, junk = random.random(scores.shape) < 0.3, random.random(scores.shape) < 0.2
    positives[3] = False
    found = average_precisions(scores, positives, junk)
    expected = [slow(*row) for row in zip(scores, positives, junk, strict=True)]
    assert np.isnan(found[[3, 7]]).all()
    np.testing.assert_allclose(found, expected)


def test_by_hand() -> None:
    scores = np.array([[0.9, 0.8, 0.7, 0.6]], dtype=np.float32)
    positives, junk = np.array([[False, True, False, True]]), np.array([[True, False, False, False]])
    # without the junk the positives are at ranks 0 and 2
    assert average_precisions(scores, positives, junk) == pytest.approx([((1 + 1) + (1 / 2 + 2 / 3)) / 4])
    assert average_precisions(scores[:0], positives[:0], junk[:0]).shape == (0,)
    with pytest.raises(ValueError, match=r"junk: expected shape \(1, 4\), found \(1, 3\)"):
        average_precisions(scores, positives, junk[:, :3])


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
