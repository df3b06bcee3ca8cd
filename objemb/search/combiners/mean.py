"""The mean of the views is searched for."""

from __future__ import annotations

from collections.abc import Callable

from objemb import checks
from objemb.registry import plugin
from objemb.search.combiners.base import MARGIN, Combiner, unit
from objemb.types import Float32Array


@plugin
class Mean(Combiner):
    """One vector: the mean of the unit vectors of all views, scaled to unit length.

    "Avg. query" of Arandjelovic and Zisserman, "Multiple queries for large scale specific object retrieval", BMVC 2012.
    Views that cancel each other out leave a vector of zeros, which scores 0 everywhere.

    Args:
        margin: See :class:`Combiner`.
    """

    scale = "cosine similarity to the mean of the views, at most 1"

    def __init__(self, *, margin: float = MARGIN) -> None:
        self.margin = checks.between("margin", margin, 0, 2)

    def combine(self, views: Float32Array, unlike: Float32Array, sample: Callable[[], Float32Array]) -> Float32Array:
        """The mean ``(1, D)``."""
        del unlike, sample
        return unit(views.mean(axis=0, keepdims=True))
