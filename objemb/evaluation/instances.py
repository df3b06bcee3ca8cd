"""Retrieval among boxes whose identities are known: the figures that a training is watched by."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from objemb import checks

#: Queries at a time: each is compared with every box.
BLOCK = 512


def instance_retrieval(
    vectors: Tensor,
    instances: Tensor,
    images: Tensor,
    queries: Tensor | None = None,
    *,
    asking: Tensor | None = None,
) -> dict[str, float]:
    """Every box searches for the others of its instance, in other images than its own.

    The boxes of the query's own image are junk: they count neither for nor against. A box without an identity is no
    query, but stands in the way of the others. Boxes whose instance is in no other image are no queries either.
    Average precision is the one of the retrieval benchmarks (trapezoid rule), as in
    :func:`objemb.evaluation.metrics.average_precision`, computed for many queries at once.

    Args:
        vectors: float ``(N, D)``, compared by scalar product: unit vectors, where cosines are meant.
        instances: int64 ``(N,)``, identity of each box, negative for none.
        images: int64 ``(N,)``, the image that each box is in.
        queries: bool ``(N,)``, which boxes may be queries; by default all.
        asking: float ``(N, D)``: the vectors of the same boxes as queries, where another model makes them than made
            those that are searched; by default ``vectors``.

    Returns:
        ``mAP`` and ``P@1``, 0 to 1, means over ``queries`` queries; NaN where there are none.

    Raises:
        ValueError: Shapes that do not go together, vectors that are not finite.
    """
    count = len(checks.finite("vectors", checks.shape("vectors", vectors, (None, None))))
    checks.shape("instances", instances, (count,))
    checks.shape("images", images, (count,))
    may = torch.ones(count, dtype=torch.bool) if queries is None else checks.shape("queries", queries, (count,)).cpu()
    asking = vectors if asking is None else checks.finite("asking", checks.shape("asking", asking, vectors.shape))
    sides, instances, images = (asking.float().cpu(), vectors.float().cpu()), instances.cpu(), images.cpu()
    scores = list(_scores(sides, instances, images, (may & (instances >= 0)).nonzero().flatten()))
    precision, first = torch.cat([torch.zeros(2, 0, dtype=torch.float64), *scores], dim=1)
    return {"mAP": float(precision.mean()), "P@1": float(first.mean()), "queries": float(len(first))}


def _scores(sides: tuple[Tensor, Tensor], instances: Tensor, images: Tensor, queries: Tensor) -> Iterator[Tensor]:
    """float64 ``(2, Q)``: average precision and whether the best is right, of the queries that have positives."""
    for numbers in queries.split(BLOCK):
        other = images[numbers, None] != images[None]
        same = (instances[numbers, None] == instances[None]) & other
        numbers, other, same = (rows[same.any(dim=1)] for rows in (numbers, other, same))
        similar = (sides[0][numbers] @ sides[1].T).masked_fill(~other, -torch.inf)  # junk goes to the end
        order = similar.argsort(dim=1, descending=True, stable=True)
        right = same.gather(1, order).double()
        yield torch.stack([_average_precision(right), right[:, 0] if right.numel() else right.sum(dim=1)])


def _average_precision(right: Tensor) -> Tensor:
    """float64 ``(Q,)`` of 0 and 1 in ranked order, ``(Q, N)``, with at least one 1 in a row."""
    rank = torch.arange(right.shape[1], dtype=torch.float64)
    found = right.cumsum(dim=1) - right
    before = torch.where(rank == 0, 1.0, found / rank.clamp_min(1))
    after = (found + 1) / (rank + 1)
    return ((before + after) / 2 * right).sum(dim=1) / right.sum(dim=1)
