"""Retrieval and localisation metrics: pure functions of NumPy arrays, which are never modified.

By convention, a query is given by the 0-based *ranks* of the positives that were found, counted without junk, and by
the *number* of all its positives, found or not. The metrics of a query without positives are NaN; means over queries
leave such queries out, and report how many there were.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from objemb.ops.boxes import paired_iou
from objemb.ops.tensors import as_tensor
from objemb.types import BoolArray, Float64Array, Int64Array

#: A function of the ranks of a query's positives and of their number.
Metric: TypeAlias = Callable[[ArrayLike, int], float]
#: Images of an object in UKBench.
UKBENCH_IMAGES = 4
#: Recalls at which precision is measured: 0, 0.01 ... 1.
RECALLS = np.linspace(0, 1, 101)


class QueryMean(NamedTuple):
    """A mean over queries.

    Attributes:
        value: The mean; NaN if no query counts.
        queries: Number of queries that count.
        skipped: Number of queries left out because they have no positives.
    """

    value: float
    queries: int
    skipped: int


class Localisation(NamedTuple):
    """How well the matched boxes agree with the true ones.

    Attributes:
        mean_iou: Mean intersection over union with the true box; NaN without true boxes.
        corloc: Share of matched boxes with an IoU of at least the threshold; NaN without true boxes.
        boxes: Number of matched boxes that were compared.
    """

    mean_iou: float
    corloc: float
    boxes: int


def average_precision(ranks: ArrayLike, num_positives: int) -> float:
    """Average precision by the trapezoid rule, as the Oxford, Paris, Holidays and INSTRE benchmarks count it.

    The area under the precision-recall curve: each positive adds the mean of the precision just before and just after
    it, divided by the number of *all* positives, so that one that was not found adds 0. (This is not the finite sum
    of information retrieval, which counts only the precision after.) Philbin et al., Object retrieval with large
    vocabularies and fast spatial matching, CVPR 2007.

    Args:
        ranks: int ``(F,)``, 0-based ranks of the positives that were found, in any order.
        num_positives: Number of all positives, at least F.

    Returns:
        0 to 1, or NaN when there are no positives.
    """
    ranked = _checked_ranks(ranks, num_positives)
    if num_positives == 0:
        return float("nan")
    return float(_trapezoids(np.arange(len(ranked)), ranked).sum() / num_positives)


def average_precisions(right: BoolArray, kept: BoolArray) -> Float64Array:
    """:func:`average_precision` of many complete rankings at once.

    Args:
        right: bool ``(Q, N)``: whether each place of a ranking, best first, holds a positive.
        kept: bool ``(Q, N)``: False for junk; all positives are True.

    Returns:
        float64 ``(Q,)``, 0 to 1; NaN for a query without positives.
    """
    before: Int64Array = np.cumsum(right, axis=1) - right
    area = (_trapezoids(before, np.cumsum(kept, axis=1) - 1) * right).sum(axis=1)
    total = right.sum(axis=1)
    precisions: Float64Array = np.divide(area, total, out=np.full(len(right), np.nan), where=total > 0)
    return precisions


def precision_at_k(ranks: ArrayLike, num_positives: int, k: int) -> float:
    """P@k: the share of positives among the first k places; a list with fewer positives than k cannot reach 1.

    Args: see :func:`average_precision`; ``k`` is at least 1. Returns NaN when there are no positives.
    """
    ranked = _checked_ranks(ranks, num_positives, k)
    return float((ranked < k).sum() / k) if num_positives else float("nan")


def revisited_precision_at_k(ranks: ArrayLike, num_positives: int, k: int) -> float:
    """The precision whose mean is mP@k of the revisited benchmarks: k is cut to the rank of the last positive.

    A query with fewer than k positives, all found at the top, thus reaches 1. A positive that was not found counts as
    ranked below place k. Radenovic et al., Revisiting Oxford and Paris, CVPR 2018.

    Args: see :func:`precision_at_k`. Returns NaN when there are no positives.
    """
    ranked = _checked_ranks(ranks, num_positives, k)
    if num_positives == 0:
        return float("nan")
    depth = min(int(ranked.max()) + 1, k) if len(ranked) == num_positives else k
    return float((ranked < depth).sum() / depth)


def recall_at_k(ranks: ArrayLike, num_positives: int, k: int) -> float:
    """Recall@k of metric learning: 1 when any positive is among the first k places, else 0.

    Song et al., Deep metric learning via lifted structured feature embedding, CVPR 2016.

    Args: see :func:`precision_at_k`. Returns NaN when there are no positives.
    """
    ranked = _checked_ranks(ranks, num_positives, k)
    return float((ranked < k).any()) if num_positives else float("nan")


def average_precision_at_k(ranks: ArrayLike, num_positives: int, k: int) -> float:
    """AP@k, whose mean is mAP@100 of Google Landmarks: the finite sum of precisions over the first k places.

    The sum is divided by the number of positives that these places could hold, so that a query with more than k
    positives reaches 1. (This is not the trapezoid rule of :func:`average_precision`.) Weyand et al., Google Landmarks
    Dataset v2, CVPR 2020.

    Args: see :func:`precision_at_k`. Returns NaN when there are no positives.
    """
    ranked = _checked_ranks(ranks, num_positives, k)
    if num_positives == 0:
        return float("nan")
    precisions = np.arange(1, len(ranked) + 1) / (ranked + 1)
    return float(precisions[ranked < k].sum() / min(num_positives, k))


def ukbench_score(ranks: ArrayLike, num_positives: int) -> float:
    """N-S: how many of the first four places show the query's object, 0 to 4, the query's own photo among them.

    Nister and Stewenius, Scalable recognition with a vocabulary tree, CVPR 2006.

    Args: see :func:`average_precision`. Returns NaN when there are no positives.
    """
    ranked = _checked_ranks(ranks, num_positives)
    return float((ranked < UKBENCH_IMAGES).sum()) if num_positives else float("nan")


def global_average_precision(scores: ArrayLike, correct: ArrayLike, num_known: int) -> float:
    """GAP (global average precision, micro-AP): one prediction per query, ranked over all queries at once.

    All predictions are ranked by their score, and each correct one adds the precision up to its place. A query that
    shows nothing known should have a low score, because its prediction is always wrong. Weyand et al., CVPR 2020.

    Args:
        scores: float ``(Q,)``, score of the prediction of each query; ties are in the order of queries.
        correct: bool ``(Q,)``, whether the prediction is correct.
        num_known: Number of queries that show something known, at least the number of correct ones.

    Returns:
        0 to 1, or NaN if no query shows anything known.
    """
    sure, right = np.asarray(scores, dtype=float), np.asarray(correct, dtype=bool)
    if sure.ndim != 1 or sure.shape != right.shape:
        raise ValueError(f"correct: expected shape {sure.shape} as in scores, found {right.shape}")
    if right.sum() > num_known:
        raise ValueError(f"num_known: expected at least the {right.sum()} that are correct, found {num_known}")
    if num_known == 0:
        return float("nan")
    ranked = right[np.argsort(-sure, kind="stable")]
    precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
    return float((precision * ranked).sum() / num_known)


def mean_over_queries(
    metric: Callable[..., float], ranks: Sequence[ArrayLike], num_positives: Sequence[int], **arguments: object
) -> QueryMean:
    """The mean of a metric of this file over queries.

    Args:
        metric: A function of ``(ranks, num_positives, **arguments)``.
        ranks: For each query, the ranks of its positives.
        num_positives: For each query, the number of its positives.
        **arguments: Further arguments of the metric, such as ``k=5``.
    """
    if len(ranks) != len(num_positives):
        raise ValueError(f"ranks: expected {len(num_positives)} queries as in num_positives, found {len(ranks)}")
    values = np.array([metric(r, n, **arguments) for r, n in zip(ranks, num_positives, strict=True)], dtype=float)
    counted = values[~np.isnan(values)]
    mean = float(counted.mean()) if len(counted) else float("nan")
    return QueryMean(mean, len(counted), len(values) - len(counted))


def mean_average_precision(ranks: Sequence[ArrayLike], num_positives: Sequence[int]) -> QueryMean:
    """mAP: the mean of :func:`average_precision` over the queries that have positives."""
    return mean_over_queries(average_precision, ranks, num_positives)


def precision_recall(ranks: Sequence[Int64Array], num_positives: Sequence[int]) -> Float64Array:
    """The mean interpolated precision at the recalls :data:`RECALLS`.

    The precision at a recall is the best that is reached at this recall or a higher one, and 0 beyond the last positive
    that was found (Manning, Raghavan and Schuetze, "Introduction to Information Retrieval", 2008, equation 8.7).

    Args:
        ranks: For each query, the 0-based ranks of the positives that were found, without junk, in any order.
        num_positives: For each query, the number of all its positives; queries without any are left out.

    Returns:
        float64 ``(101,)``; NaN when no query counts.
    """
    curves = [_curve(np.sort(r), n) for r, n in zip(ranks, num_positives, strict=True) if n]
    return np.mean(curves, axis=0) if curves else np.full(len(RECALLS), np.nan)


def scored(name: str, ranks: Sequence[Int64Array], num_positives: Sequence[int]) -> float:
    """The mean of a metric over the queries that have positives.

    Args:
        name: ``mAP`` (trapezoid rule), ``mAP@k`` (of Google Landmarks), ``P@k``, ``mP@k`` (revisited), ``R@k`` or
            ``N-S``.
        ranks: For each query, the 0-based ranks of its positives, without junk.
        num_positives: For each query, the number of its positives.
    """
    return mean_over_queries(metric_named(name), ranks, num_positives).value


def metric_named(name: str) -> Metric:
    """The function of ``(ranks, num_positives)`` for the name of a metric.

    Raises:
        ValueError: There is no metric of this name.
    """
    if name in _PLAIN:
        return _PLAIN[name]
    parts = _WITH_K.fullmatch(name)
    if parts is None:
        raise ValueError(f"figure: expected mAP, N-S, or mAP, P, mP or R with @k, found {name!r}")
    return partial(_AT_K[parts[1]], k=int(parts[2]))


def known(value: float) -> float | None:
    """The value for JSON: None instead of NaN."""
    return None if math.isnan(value) else value


def best_iou(boxes: ArrayLike, truths: ArrayLike, owners: ArrayLike) -> Float64Array:
    """The largest intersection over union of each box with its true boxes.

    Args:
        boxes: ``(N, 4)`` xyxy, the matched boxes.
        truths: ``(T, 4)`` xyxy, true boxes; a box may have several (two bottles of a kind in one photo).
        owners: int ``(T,)``, the index of the box that each true box belongs to.

    Returns:
        float64 ``(N,)``, 0 to 1; NaN for a box without true boxes, 0 where both boxes have no area.
    """
    detected, true = _boxes("boxes", boxes), _boxes("truths", truths)
    whose = _numbers("owners", owners)
    if len(whose) != len(true) or np.any((whose < 0) | (whose >= len(detected))):
        raise ValueError(f"owners: expected {len(true)} numbers from 0 to {len(detected) - 1}, found {whose.tolist()}")
    best = np.full(len(detected), np.nan)
    np.fmax.at(best, whose, paired_iou(as_tensor(detected[whose]), as_tensor(true)).numpy())
    return best


def localisation(ious: Iterable[float], threshold: float = 0.5) -> Localisation:
    """Mean IoU and CorLoc of the matched boxes of true positives.

    CorLoc: Deselaers et al., Localizing objects while learning their appearance, ECCV 2010.

    Args:
        ious: The IoU of each true positive's matched box; NaN (no true box) is left out.
        threshold: Smallest IoU at which a box counts as correct.
    """
    values = np.asarray(list(ious), dtype=float)
    known = values[~np.isnan(values)]
    if not len(known):
        return Localisation(float("nan"), float("nan"), 0)
    return Localisation(float(known.mean()), float((known >= threshold).mean()), len(known))


def _trapezoids(before: Int64Array, ranks: Int64Array) -> Float64Array:
    """The mean of the precision just before and just after a positive at each rank, with ``before`` positives above
    it."""
    precision_before = np.where(ranks <= 0, 1.0, before / np.maximum(ranks, 1))
    return np.asarray((precision_before + (before + 1) / np.maximum(ranks + 1, 1)) / 2)


def _curve(ranked: Int64Array, num_positives: int) -> Float64Array:
    hits = np.arange(1, len(ranked) + 1)
    precision = np.maximum.accumulate((hits / (ranked + 1))[::-1])[::-1]
    # the first positive that reaches each recall; rounding errors must not require one more
    place = np.ceil(RECALLS * num_positives - 1e-9).astype(np.int64).clip(1) - 1
    curve: Float64Array = np.append(precision, 0.0)[np.minimum(place, len(ranked))]
    return curve


def _numbers(name: str, values: ArrayLike) -> Int64Array:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise ValueError(f"{name}: expected a row of integers, found {array.dtype} of shape {array.shape}")
    return array.astype(np.int64)


def _boxes(name: str, values: ArrayLike) -> Float64Array:
    array = np.asarray(values, dtype=float)
    if array.size == 0:
        return array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"{name}: expected shape (any, 4), found {array.shape}")
    return array


def _checked_ranks(ranks: ArrayLike, num_positives: int, k: int = 1) -> Int64Array:
    """The ranks in ascending order."""
    ranked = np.sort(_numbers("ranks", ranks))
    if num_positives < len(ranked):
        raise ValueError(f"num_positives: expected at least the {len(ranked)} that were found, found {num_positives}")
    if len(ranked) and (ranked[0] < 0 or np.any(np.diff(ranked) == 0)):
        raise ValueError(f"ranks: expected different numbers of at least 0, found {ranked.tolist()}")
    if k < 1:
        raise ValueError(f"k: expected at least 1, found {k}")
    return ranked


_WITH_K = re.compile(r"(mAP|P|mP|R)@([1-9]\d*)")
_PLAIN: Mapping[str, Metric] = {"mAP": average_precision, "N-S": ukbench_score}
_AT_K = {
    "mAP": average_precision_at_k,
    "P": precision_at_k,
    "mP": revisited_precision_at_k,
    "R": recall_at_k,
}
