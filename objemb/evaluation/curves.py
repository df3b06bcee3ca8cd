"""Precision against recall, averaged over queries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: Recalls at which curves are read: 0, 0.01 ... 1.
RECALLS = np.linspace(0, 1, 101)


def precision_recall(ranks: Sequence[NDArray[np.int64]], num_positives: Sequence[int]) -> NDArray[np.float64]:
    """The mean interpolated precision at the recalls :data:`RECALLS`.

    The precision at a recall is the best that is reached at this recall or a higher one, and 0 beyond the last positive
    that was found (Manning, Raghavan and Schuetze, "Introduction to Information Retrieval", 2008, equation 8.7).

    Args:
        ranks: Per query the 0-based ranks of the positives that were found, without junk, in any order.
        num_positives: Per query the number of all its positives; queries without any are left out.

    Returns:
        float64 ``(101,)``; NaN when no query counts.
    """
    curves = [_curve(np.sort(r), n) for r, n in zip(ranks, num_positives, strict=True) if n]
    return np.mean(curves, axis=0) if curves else np.full(len(RECALLS), np.nan)


def _curve(ranked: NDArray[np.int64], num_positives: int) -> NDArray[np.float64]:
    found = np.arange(1, len(ranked) + 1)
    precision = np.maximum.accumulate((found / (ranked + 1))[::-1])[::-1]
    # the place of the first positive that reaches each recall; rounding must not ask for one more
    place = np.ceil(RECALLS * num_positives - 1e-9).astype(np.int64).clip(1) - 1
    return np.append(precision, 0.0)[np.minimum(place, len(ranked))]
