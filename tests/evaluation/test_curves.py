from __future__ import annotations

import numpy as np
import pytest

from objemb.evaluation.curves import RECALLS, precision_recall


def test_by_hand() -> None:
    # found at ranks 0 and 3 of three positives: precision 1 up to a third, 1/2 up to two thirds, then nothing
    curve = precision_recall([np.array([3, 0])], [3])
    assert curve[RECALLS <= 1 / 3].tolist() == [1.0] * 34
    assert curve[(RECALLS > 1 / 3) & (RECALLS <= 2 / 3)].tolist() == [0.5] * 33
    assert set(curve[RECALLS > 2 / 3].tolist()) == {0.0}


def test_precision_is_the_best_at_this_recall_or_above() -> None:
    curve = precision_recall([np.array([1, 2])], [2])
    assert curve == pytest.approx(np.full(101, 2 / 3))


def test_mean_over_the_queries_that_count() -> None:
    curve = precision_recall([np.array([0]), np.zeros(0, np.int64), np.zeros(0, np.int64)], [1, 1, 0])
    assert curve == pytest.approx(np.full(101, 0.5))
    assert np.isnan(precision_recall([], [])).all()


@pytest.mark.parametrize("count", [1, 3, 7, 10, 100, 200])
def test_a_perfect_ranking(count: int) -> None:
    assert precision_recall([np.arange(count)], [count]).tolist() == [1.0] * 101
