from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from objemb.evaluation import metrics
from tests.evaluation.reference import slow_ranks

SOME_RANKS = [np.array([0, 2, 5]), np.array([1])]
METRICS_AT_K = [metrics.precision_at_k, metrics.revisited_precision_at_k, metrics.recall_at_k]


def slow_average_precision(ranks: list[int], num_positives: int) -> float:
    """Adds up trapezoids under the precision-recall curve, one positive at a time."""
    area = 0.0
    for found, rank in enumerate(sorted(ranks)):
        before = 1.0 if rank == 0 else found / rank
        after = (found + 1) / (rank + 1)
        area += (before + after) / 2 / num_positives
    return area


def slow_iou(a: np.ndarray, b: np.ndarray) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union else 0.0


@pytest.mark.parametrize(
    ("ranks", "num_positives", "expected"),
    [
        ([0, 2, 5], 3, 0.677778),
        ([0], 2, 0.5),
        ([1], 1, 0.25),
        ([0, 1, 2], 3, 1.0),
        ([], 4, 0.0),
        ([3], 1, 0.125),
    ],
)
def test_average_precision_by_hand(ranks: list[int], num_positives: int, expected: float) -> None:
    assert metrics.average_precision(ranks, num_positives) == pytest.approx(expected, abs=1e-6)


def test_average_precision_equals_the_slow_reference() -> None:
    random = np.random.default_rng(0)
    for _ in range(300):
        length = int(random.integers(1, 60))
        ranks = random.permutation(length)[: random.integers(0, length + 1)]
        positives = len(ranks) + int(random.integers(0, 4))
        if positives:
            expected = slow_average_precision(ranks.tolist(), positives)
            assert metrics.average_precision(ranks, positives) == pytest.approx(expected)


def test_average_precisions_are_those_of_one_ranking_after_the_other() -> None:
    random = np.random.default_rng(1)
    right = random.random((60, 25)) < 0.2
    kept = right | (random.random(right.shape) < 0.6)
    right[4] = False
    places = np.arange(25)
    found = metrics.average_precisions(right, kept)
    for query in range(60):
        ranks = slow_ranks(places.tolist(), places[right[query]].tolist(), places[~kept[query]].tolist())
        expected = slow_average_precision(ranks, len(ranks)) if ranks else math.nan
        assert found[query] == pytest.approx(expected, nan_ok=True)
        assert metrics.average_precision(ranks, len(ranks)) == pytest.approx(expected, nan_ok=True)


def test_average_precisions_of_nothing() -> None:
    nothing, empty = np.zeros((0, 4), dtype=bool), np.zeros((2, 0), dtype=bool)
    assert metrics.average_precisions(nothing, nothing).shape == (0,)
    assert np.isnan(metrics.average_precisions(empty, empty)).tolist() == [True, True]


def test_precision_at_k_by_hand() -> None:
    # two positives in places 1 and 3, one never found
    assert metrics.precision_at_k([0, 2], 3, 1) == 1.0
    assert metrics.precision_at_k([0, 2], 3, 2) == 0.5
    assert metrics.precision_at_k([0, 2], 3, 5) == pytest.approx(0.4)


def test_revisited_precision_stops_at_the_last_positive() -> None:
    assert metrics.precision_at_k([0, 1], 2, 10) == pytest.approx(0.2)
    assert metrics.revisited_precision_at_k([0, 1], 2, 10) == 1.0
    assert metrics.revisited_precision_at_k([0, 3], 2, 10) == pytest.approx(2 / 4)
    assert metrics.revisited_precision_at_k([0, 30], 2, 10) == pytest.approx(1 / 10)
    assert metrics.revisited_precision_at_k([0, 1], 3, 10) == pytest.approx(2 / 10), "one is missing: behind place k"
    assert metrics.revisited_precision_at_k([5], 1, 1) == 0.0


def test_recall_is_whether_any_was_found() -> None:
    assert metrics.recall_at_k([4, 9], 2, 4) == 0.0
    assert metrics.recall_at_k([4, 9], 2, 5) == 1.0
    assert metrics.recall_at_k([], 2, 5) == 0.0


@pytest.mark.parametrize("metric", METRICS_AT_K)
def test_metrics_at_k_without_positives_and_bad_k(metric: Callable[..., float]) -> None:
    assert math.isnan(metric([], 0, 3))
    with pytest.raises(ValueError, match="k: expected at least 1, found 0"):
        metric([0], 1, 0)


@pytest.mark.parametrize(
    ("ranks", "num_positives", "message"),
    [
        ([0, 1], 1, "expected at least the 2 that were found, found 1"),
        ([-1], 1, "at least 0"),
        ([2, 2], 2, "different numbers"),
        ([0.5], 1, "integers"),
        ([[0, 1]], 2, "row of integers"),
    ],
)
def test_bad_ranks_are_refused(ranks: list, num_positives: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.average_precision(ranks, num_positives)


def test_means_leave_out_queries_without_positives() -> None:
    mean = metrics.mean_average_precision([[0], [], [1]], [1, 0, 1])
    assert mean == metrics.QueryMean(value=pytest.approx((1 + 0.25) / 2), queries=2, skipped=1)
    none = metrics.mean_average_precision([[]], [0])
    assert math.isnan(none.value)
    assert (none.queries, none.skipped) == (0, 1)
    assert metrics.mean_average_precision([], [])[1:] == (0, 0)
    at_two = metrics.mean_over_queries(metrics.precision_at_k, [[0], [1, 2]], [1, 2], k=2)
    assert at_two.value == pytest.approx(0.5)
    with pytest.raises(ValueError, match="expected 1 queries as in num_positives, found 2"):
        metrics.mean_average_precision([[0], [1]], [1])


def test_best_iou_by_hand() -> None:
    boxes = [[0, 0, 10, 10], [0, 0, 10, 10], [5, 5, 5, 5], [0, 0, 4, 4]]
    truths = [[5, 0, 15, 10], [0, 0, 10, 5], [0, 0, 10, 10], [5, 5, 5, 5], [4, 4, 8, 8]]
    found = metrics.best_iou(boxes, truths, [0, 0, 1, 2, 3])
    assert found.tolist() == [0.5, 1.0, 0.0, 0.0]


def test_best_iou_equals_the_slow_reference() -> None:
    random = np.random.default_rng(2)

    def some(count: int) -> np.ndarray:
        corners = np.sort(random.integers(0, 12, (count, 2, 2)), axis=1)
        return corners.reshape(count, 4).astype(float)

    boxes, truths, owners = some(40), some(150), random.integers(0, 40, 150)
    expected = [max((slow_iou(b, t) for t in truths[owners == i]), default=np.nan) for i, b in enumerate(boxes)]
    np.testing.assert_allclose(metrics.best_iou(boxes, truths, owners), expected)


def test_best_iou_of_nothing() -> None:
    assert metrics.best_iou([], [], []).shape == (0,)
    assert np.isnan(metrics.best_iou([[0, 0, 1, 1]], [], [])).tolist() == [True]
    with pytest.raises(ValueError, match="numbers from 0 to 0"):
        metrics.best_iou([[0, 0, 1, 1]], [[0, 0, 1, 1]], [1])
    with pytest.raises(ValueError, match=r"boxes: expected shape \(any, 4\), found \(1, 3\)"):
        metrics.best_iou([[0, 0, 1]], [], [])


def test_localisation() -> None:
    assert metrics.localisation([1.0, 0.5, 0.3, math.nan]) == (pytest.approx(0.6), pytest.approx(2 / 3), 3)
    assert metrics.localisation([0.6], threshold=0.7) == (0.6, 0.0, 1)
    empty = metrics.localisation([math.nan])
    assert math.isnan(empty.mean_iou)
    assert math.isnan(empty.corloc)
    assert empty.boxes == 0


def test_average_precision_at_k_of_google_landmarks() -> None:
    assert metrics.average_precision_at_k([0, 2], 3, 100) == pytest.approx((1 + 2 / 3) / 3)  # right, wrong, right
    assert metrics.average_precision_at_k([0, 1, 5], 9, 2) == 1.0, "no more than k can be found"
    assert metrics.average_precision_at_k([2], 1, 2) == 0.0
    assert math.isnan(metrics.average_precision_at_k([], 0, 5))
    with pytest.raises(ValueError, match="k: expected at least 1"):
        metrics.average_precision_at_k([0], 1, 0)


def test_ukbench_score() -> None:
    assert metrics.ukbench_score([0, 3, 4, 9], 4) == 2.0
    assert metrics.ukbench_score([0, 1, 2, 3], 4) == 4.0
    assert math.isnan(metrics.ukbench_score([], 0))


def test_global_average_precision() -> None:
    assert metrics.global_average_precision([0.9, 0.8, 0.1], [True, True, False], 2) == 1.0
    assert metrics.global_average_precision([0.5, 0.9, 0.7], [True, False, True], 3) == pytest.approx(
        (1 / 2 + 2 / 3) / 3
    )
    tied = metrics.global_average_precision([0.5, 0.5], [True, False], 1)
    assert tied == 1.0, "of equal scores the earlier query comes first"
    assert math.isnan(metrics.global_average_precision([], [], 0))
    with pytest.raises(ValueError, match=r"correct: expected shape \(1,\) as in scores, found \(2,\)"):
        metrics.global_average_precision([1.0], [True, False], 2)
    with pytest.raises(ValueError, match="num_known: expected at least the 2 that are correct, found 1"):
        metrics.global_average_precision([1.0, 2.0], [True, True], 1)


def test_inputs_are_left_as_they_are() -> None:
    ranks, right = np.array([5, 0, 2]), np.array([[True, False, True]])
    boxes, truths, owners = np.array([[0.0, 0, 1, 1]]), np.array([[0.0, 0, 2, 1]]), np.array([0])
    before = [a.copy() for a in (ranks, right, boxes, truths, owners)]
    metrics.average_precision(ranks, 3)
    metrics.revisited_precision_at_k(ranks, 3, 2)
    metrics.average_precisions(right, right)
    metrics.best_iou(boxes, truths, owners)
    for array, copy in zip((ranks, right, boxes, truths, owners), before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_precision_at_recalls_by_hand() -> None:
    # found at ranks 0 and 3 of three positives: precision 1 up to a third, 1/2 up to two thirds, then nothing
    curve = metrics.precision_recall([np.array([3, 0])], [3])
    assert curve[metrics.RECALLS <= 1 / 3].tolist() == [1.0] * 34
    assert curve[(metrics.RECALLS > 1 / 3) & (metrics.RECALLS <= 2 / 3)].tolist() == [0.5] * 33
    assert set(curve[metrics.RECALLS > 2 / 3].tolist()) == {0.0}


def test_precision_at_a_recall_is_the_best_at_this_recall_or_above() -> None:
    curve = metrics.precision_recall([np.array([1, 2])], [2])
    assert curve == pytest.approx(np.full(101, 2 / 3))


def test_curves_are_means_over_the_queries_that_count() -> None:
    curve = metrics.precision_recall([np.array([0]), np.zeros(0, np.int64), np.zeros(0, np.int64)], [1, 1, 0])
    assert curve == pytest.approx(np.full(101, 0.5))
    assert np.isnan(metrics.precision_recall([], [])).all()


@pytest.mark.parametrize("count", [1, 3, 7, 10, 100, 200])
def test_the_curve_of_a_perfect_ranking(count: int) -> None:
    assert metrics.precision_recall([np.arange(count)], [count]).tolist() == [1.0] * 101


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mAP", (0.677778 + 0.25) / 2),  # methods.md 10.1
        ("mAP@2", (1 / 2 + 1 / 2) / 2),
        ("P@2", (1 / 2 + 1 / 2) / 2),
        ("mP@10", (3 / 6 + 1 / 2) / 2),
        ("R@1", 1 / 2),
        ("N-S", (2 + 1) / 2),
    ],
)
def test_figures_by_name(name: str, expected: float) -> None:
    assert metrics.scored(name, SOME_RANKS, [3, 1]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["AP", "P@0", "mP", "R@x", "GAP"])
def test_figures_that_there_are_not(name: str) -> None:
    with pytest.raises(ValueError, match="figure: expected mAP, N-S, or mAP, P, mP or R with @k, found"):
        metrics.metric_named(name)
