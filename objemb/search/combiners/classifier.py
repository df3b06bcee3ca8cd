"""A linear classifier that tells the views from other boxes of the index."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from objemb import checks
from objemb.registry import plugin
from objemb.search.combiners.base import Combiner, unit
from objemb.types import Float32Array, Float64Array


@plugin
class Classifier(Combiner):
    """One vector: the direction of a linear classifier of the views against a sample of the index.

    Learned per query, as the "joint SVM" of Arandjelovic and Zisserman ("Multiple queries for large scale specific
    object retrieval", BMVC 2012), but by regularised least squares in closed form: with targets 1 for views and 0 for
    others, and weights that give both sides half of the total, ``w = (C + strength * mean(diag C) * I)^-1 c``, with
    ``C`` the weighted covariance of all vectors and ``c`` their weighted covariance with the targets. This is the
    direction of linear discriminant analysis, which the few rows of the sample that do show the object hardly turn.
    Counter-examples have half of the weight of the other side. The larger the strength is, the closer is the direction
    to the mean of the views less the mean of the others.

    Args:
        strength: Of the penalty, as a share of the mean variance of a coordinate, above 0. The default was chosen on
            pasted products, where smaller ones are worse (docs/results.md).
    """

    scale = "cosine similarity to a linear classifier of the views, at most 1"

    def __init__(self, *, strength: float = 100.0) -> None:
        self.strength = checks.positive("strength", strength)

    def combine(self, views: Float32Array, unlike: Float32Array, sample: Callable[[], Float32Array]) -> Float32Array:
        """The direction ``(1, D)``; the mean of the views if there is nothing to tell them from."""
        others = [rows for rows in (sample(), unlike) if len(rows)]
        if not others:
            return unit(views.mean(axis=0, keepdims=True))
        groups = [views, *others]
        shares = [0.5, *(0.5 / len(others) for _ in others)]
        rows = np.concatenate(groups).astype(np.float64)
        weights = np.concatenate([np.full(len(g), s / len(g)) for g, s in zip(groups, shares, strict=True)])
        direction = _direction(rows, weights, len(views), self.strength)
        return unit(direction[None].astype(np.float32))


def _direction(rows: Float64Array, weights: Float64Array, positive: int, strength: float) -> Float64Array:
    """The coefficients ``(D,)`` of weighted least squares on rows ``(N, D)``, of which the first have the target 1."""
    centred: Float64Array = np.subtract(rows, weights @ rows)
    targets: Float64Array = np.zeros(len(rows))
    targets[:positive] = 1
    covariance = (centred * weights[:, None]).T @ centred
    penalty = strength * max(float(np.trace(covariance)) / len(covariance), np.finfo(np.float64).tiny)
    towards = centred.T @ (weights * (targets - weights @ targets))
    return np.linalg.solve(covariance + penalty * np.eye(len(covariance)), towards).astype(np.float64, copy=False)
