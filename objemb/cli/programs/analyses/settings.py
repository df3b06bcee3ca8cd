"""How items are aggregated and compared, and the resulting scores."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from objemb.types import Float64Array

CLASSIFICATION, DETECTION = "classification", "detection"
#: Kinds of regions of an item (a photo, an object or a query). In each kind, the first region is the item's own box.
WHOLE, GRID, BOXES, TRUTH = "whole image", "R-MAC grid", "detector boxes", "true boxes"
SUM, BEST, ONE = "sum", "best match", "one vector"


@dataclass(frozen=True)
class Setting:
    """How items are aggregated and compared.

    Attributes:
        name: Name of the setting in tables.
        kind: Kind of the regions of a database item.
        pooling: Pooling of each region: ``mean``, ``max`` or ``gem``.
        matching: ``one vector``, of the item's own box; ``sum``, of its other regions, as in R-MAC; or ``best match``
            among all of its regions.
        query_kind: Kind of the regions of a query, whose vectors are summed.
    """

    name: str
    kind: str
    pooling: str
    matching: str = ONE
    query_kind: str = WHOLE


#: One vector per item in the poolings of the paper; SPoC without its centre prior.
LAYER_SETTINGS = (
    Setting("SPoC", WHOLE, "mean"),
    Setting("MAC", WHOLE, "max"),
    Setting("R-MAC", GRID, "max", SUM, query_kind=GRID),
    Setting("GeM", WHOLE, "gem"),
)


def attention_settings(pooling: str, kinds: Sequence[str]) -> list[Setting]:
    """Settings for the whole image, and for the other kinds of regions with both kinds of matching."""
    settings = [Setting(WHOLE, WHOLE, pooling)]
    for matching, kind in itertools.product((BEST, SUM), kinds):
        settings.append(
            Setting(kind, kind, pooling, matching, query_kind=GRID if (kind, matching) == (GRID, SUM) else WHOLE)
        )
    return settings


@dataclass(frozen=True, eq=False)
class Score:
    """A score of the tables.

    Attributes:
        network: ``classification`` or ``detection``.
        layer: Name of the layer.
        setting: How items are aggregated and compared.
        dim: Dimension of the vectors.
        precisions: float64 ``(Q,)``, average precision by query, NaN for a query that does not count.
    """

    network: str
    layer: str
    setting: Setting
    dim: int
    precisions: Float64Array

    @property
    def mean_precision(self) -> float | None:
        """mAP; None when no query counts."""
        counted = self.precisions[~np.isnan(self.precisions)]
        return float(counted.mean()) if len(counted) else None


def mean_over_scores(scores: Iterable[Score]) -> Float64Array:
    """float64 ``(Q,)``: the average precision of each query, averaged over scores."""
    means: Float64Array = np.mean([score.precisions for score in scores], axis=0)
    return means
