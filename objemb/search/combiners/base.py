"""The contract of what turns several views of an object, and counter-examples, into one query."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from objemb.registry import Plugin
from objemb.types import Float32Array

#: The margin of combiners that lower the scores of what is close to a counter-example, unless one is given.
MARGIN = 0.05


class Combiner(Plugin, ABC):
    """Turns views of one object into the rows of a query.

    Attributes:
        margin: Cosine similarity by which a box of the index has to be closer to the views than to a counter-example
            to keep its score; what it lacks is subtracted from the score. None if :meth:`combine` uses the
            counter-examples itself.
        keeps_views: Whether the rows of the query are the rows of the views, in order, so that scores are those of a
            search for one view, and the row that matched names its view.
        unboxed: What a view without a box stands for, as for ``EmbeddingModel.query``: None for the default of the
            model, ``whole`` for the whole photo.
        scale: Meaning of the scores in words; None if they are those of a search for one view.
    """

    kind = "search.combiners"
    margin: float | None = None
    keeps_views: ClassVar[bool] = False
    unboxed: ClassVar[str | None] = "whole"
    scale: ClassVar[str | None] = None

    @abstractmethod
    def combine(self, views: Float32Array, unlike: Float32Array, sample: Callable[[], Float32Array]) -> Float32Array:
        """The vectors to search with.

        Args:
            views: float32 ``(P, D)``, unit vectors of the boxes of all views, P at least 1.
            unlike: float32 ``(U, D)``, those of counter-examples, possibly none.
            sample: Returns vectors of the index ``(S, D)``, possibly none, few of which show the object.

        Returns:
            float32 ``(Q, D)``, unit vectors.
        """


def unit(vectors: Float32Array) -> Float32Array:
    """Rows ``(N, D)`` of unit length; a row of zeros stays as it is."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
