"""The best match of any view counts."""

from __future__ import annotations

from collections.abc import Callable

from objemb import checks
from objemb.registry import plugin
from objemb.search.combiners.base import MARGIN, Combiner
from objemb.types import Float32Array


@plugin
class Best(Combiner):
    """The score of a photo is that of its best pair of boxes, one of the photo and one of any view.

    Args:
        margin: See :class:`Combiner`.
    """

    keeps_views = True
    unboxed = None

    def __init__(self, *, margin: float = MARGIN) -> None:
        self.margin = checks.between("margin", margin, 0, 2)

    def combine(self, views: Float32Array, unlike: Float32Array, sample: Callable[[], Float32Array]) -> Float32Array:
        """The rows of the views."""
        del unlike, sample
        return views
