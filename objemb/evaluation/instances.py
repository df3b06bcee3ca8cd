"""Retrieval among boxes of known identity: the validation metrics of training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from objemb import checks
from objemb.evaluation.metrics import average_precisions

#: Queries per block; each is compared with every box.
BLOCK = 512


class ByClass(NamedTuple):
    """Metrics of :func:`instance_retrieval` by class, in the order of the classes.

    Attributes:
        queries: With the boxes of each class as queries, and positives of all classes.
        objects: With queries of all classes, and the boxes of each class as positives. Boxes of the same instance in
            other classes are junk.
    """

    queries: list[dict[str, float]]
    objects: list[dict[str, float]]


def instance_retrieval(
    vectors: Tensor,
    instances: Tensor,
    images: Tensor,
    queries: Tensor | None = None,
    *,
    asking: Tensor | None = None,
) -> dict[str, float]:
    """Search with every box for the other boxes of its instance in other images.

    Boxes of the query's own image are junk: they are left out of the ranking. A box without an identity is not a query,
    but counts as a wrong hit. Boxes whose instance occurs in no other image are not queries either.
    Average precision is that of the retrieval benchmarks (trapezoid rule), see
    :func:`objemb.evaluation.metrics.average_precision`.

    Args:
        vectors: float ``(N, D)``, compared by inner product; unit vectors for cosine similarity.
        instances: int64 ``(N,)``, identity of each box, negative for none.
        images: int64 ``(N,)``, the image of each box.
        queries: bool ``(N,)``, which boxes may be queries; by default all.
        asking: float ``(N, D)``, the vectors of the same boxes as queries, if another model computes these; by default
            ``vectors``.

    Returns:
        ``mAP`` and ``P@1``, 0 to 1, means over ``queries`` queries; NaN if there are none.

    Raises:
        ValueError: The shapes do not match, or vectors are not finite.
    """
    count = len(checks.finite("vectors", checks.shape("vectors", vectors, (None, None))))
    may = torch.ones(count, dtype=torch.bool) if queries is None else checks.shape("queries", queries, (count,)).cpu()
    _, scores = _all_scores(vectors, instances, images, may, asking)
    return _means(scores[:, 0])


def instance_retrieval_by_class(
    vectors: Tensor,
    instances: Tensor,
    images: Tensor,
    classes: Tensor,
    count: int,
    *,
    asking: Tensor | None = None,
) -> ByClass:
    """:func:`instance_retrieval` by a class of the boxes, such as their size.

    Args:
        vectors: See :func:`instance_retrieval`.
        instances: See :func:`instance_retrieval`.
        images: See :func:`instance_retrieval`.
        classes: int64 ``(N,)``, 0 to ``count - 1``, negative for none.
        count: Number of classes.
        asking: See :func:`instance_retrieval`.
    """
    of_boxes = checks.shape("classes", classes, (len(vectors),)).cpu()
    if len(of_boxes) and int(of_boxes.max()) >= checks.whole("count", count):
        raise ValueError(f"classes: expected numbers up to {count - 1}, found {int(of_boxes.max())}")
    may = torch.ones(len(of_boxes), dtype=torch.bool)
    numbers, scores = _all_scores(vectors, instances, images, may, asking, of_boxes, count)
    asked = of_boxes[numbers]
    return ByClass(
        [_means(scores[:, 0, asked == number]) for number in range(count)],
        [_means(scores[:, 1 + number]) for number in range(count)],
    )


def _means(scores: Tensor) -> dict[str, float]:
    """Means of ``(2, Q)`` average precisions and precisions at 1 over the queries that have positives."""
    precision, first = scores[:, ~scores[0].isnan()]
    return {"mAP": float(precision.mean()), "P@1": float(first.mean()), "queries": len(first)}


def _all_scores(
    vectors: Tensor,
    instances: Tensor,
    images: Tensor,
    may: Tensor,
    asking: Tensor | None,
    classes: Tensor | None = None,
    count: int = 0,
) -> tuple[Tensor, Tensor]:
    """The queries, int64 ``(Q,)``, and their scores from :func:`_scores`, float64 ``(2, 1 + count, Q)``."""
    checks.finite("vectors", checks.shape("vectors", vectors, (None, None)))
    checks.shape("instances", instances, (len(vectors),))
    checks.shape("images", images, (len(vectors),))
    asking = vectors if asking is None else checks.finite("asking", checks.shape("asking", asking, vectors.shape))
    sides, instances, images = (asking.float().cpu(), vectors.float().cpu()), instances.cpu(), images.cpu()
    queries = (may & (instances >= 0)).nonzero().flatten()
    blocks = list(_scores(sides, instances, images, queries, classes, count))
    nothing = torch.zeros(2, 1 + count, 0, dtype=torch.float64)
    numbers = torch.cat([queries[:0], *(of_block for of_block, _ in blocks)])
    return numbers, torch.cat([nothing, *(scores for _, scores in blocks)], dim=2)


def _scores(
    sides: tuple[Tensor, Tensor],
    instances: Tensor,
    images: Tensor,
    queries: Tensor,
    classes: Tensor | None,
    count: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """In blocks, the queries that have positives, int64 ``(Q,)``, and their scores, float64 ``(2, 1 + count, Q)``.

    The scores are average precision and precision at 1, first for all positives, then for those of each class, NaN
    without any.
    """
    for numbers in queries.split(BLOCK):
        other = images[numbers, None] != images[None]
        same = (instances[numbers, None] == instances[None]) & other
        numbers, other, same = (rows[same.any(dim=1)] for rows in (numbers, other, same))
        similar = (sides[0][numbers] @ sides[1].T).masked_fill(~other, -torch.inf)  # junk is sorted to the end
        order = similar.argsort(dim=1, descending=True, stable=True)
        same = same.gather(1, order)
        parts = [same] if classes is None else [same, *(same & (classes[order] == c) for c in range(count))]
        yield numbers, torch.stack([_figures(right, ~same | right) for right in parts], dim=1)


def _figures(right: Tensor, kept: Tensor) -> Tensor:
    """float64 ``(2, Q)``: average precision and precision at 1, NaN for rows without positives.

    Args:
        right: bool ``(Q, N)``, the positives, in ranked order.
        kept: bool ``(Q, N)``, False for junk, which is left out of the ranking.
    """
    precision = torch.from_numpy(average_precisions(right.numpy(), kept.numpy()))
    first = (right & (kept.cumsum(dim=1) == 1)).any(dim=1).double()
    return torch.stack([precision, first.where(right.any(dim=1), torch.nan)])
