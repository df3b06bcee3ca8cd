"""How items are summed up and compared, and the figures that come of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CLASSIFICATION, DETECTION = "classification", "detection"
#: Kinds of regions of an item (a photo, an object or a query). Its own box is the first of them in all kinds.
WHOLE, GRID, BOXES, TRUTH = "whole image", "R-MAC grid", "detector boxes", "true boxes"
SUM, BEST, ONE = "sum", "best match", "one vector"


@dataclass(frozen=True)
class Look:
    """How items are summed up and compared.

    Attributes:
        name: What to call it.
        kind: Regions of an item of the database.
        pooling: Of each region: ``mean``, ``max`` or ``gem``.
        matching: ``one vector`` of the item's own box; the ``sum`` of its other regions, as R-MAC has it; or all of its
            regions, of which the ``best match`` counts.
        asked: Regions of a query, whose vectors are summed up to one.
    """

    name: str
    kind: str
    pooling: str
    matching: str = ONE
    asked: str = WHOLE


#: One vector per item in the poolings of the paper; SPoC without its centre prior.
LAYER_LOOKS = (
    Look("SPoC", WHOLE, "mean"),
    Look("MAC", WHOLE, "max"),
    Look("R-MAC", GRID, "max", SUM, asked=GRID),
    Look("GeM", WHOLE, "gem"),
)


def attention_looks(pooling: str, kinds: Sequence[str]) -> list[Look]:
    """The whole image, and the other kinds of regions in both ways of matching."""
    looks = [Look(WHOLE, WHOLE, pooling)]
    for matching, kind in itertools.product((BEST, SUM), kinds):
        looks.append(Look(kind, kind, pooling, matching, asked=GRID if (kind, matching) == (GRID, SUM) else WHOLE))
    return looks


@dataclass(frozen=True, eq=False)
class Cell:
    """A figure of the tables.

    Attributes:
        network: ``classification`` or ``detection``.
        layer: Its name.
        look: How items are summed up and compared.
        dim: Length of the vectors.
        precisions: float64 ``(Q,)``, average precision per query, NaN for one that does not count.
    """

    network: str
    layer: str
    look: Look
    dim: int
    precisions: NDArray[np.float64]

    @property
    def mean_precision(self) -> float | None:
        """mAP; None when no query counts."""
        counted = self.precisions[~np.isnan(self.precisions)]
        return float(counted.mean()) if len(counted) else None


def mean_over_cells(cells: Iterable[Cell]) -> NDArray[np.float64]:
    """float64 ``(Q,)``: average precision per query, averaged over cells."""
    return np.mean([cell.precisions for cell in cells], axis=0)
