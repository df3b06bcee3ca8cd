"""Figures by the size of the object: small objects in clutter are what hard attention is for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from objemb.evaluation.described import Rows
from objemb.evaluation.metrics import Localisation, QueryMean, localisation, mean_average_precision
from objemb.evaluation.protocol import Entry
from objemb.evaluation.ranks import Standing
from objemb.evaluation.scoring import Located
from objemb.evaluation.task import Task
from objemb.structures import Box

#: Buckets, and the share of the photo's area up to which each reaches; its lower end is the end of the one before.
SIZES = {"<1 %": 0.01, "1-10 %": 0.1, ">10 %": 1.0}
#: The bucket of an object whose size nobody knows.
UNKNOWN = -1


def buckets(shares: ArrayLike) -> NDArray[np.int64]:
    """The number of the bucket in :data:`SIZES` of each share of a photo's area; ``UNKNOWN`` for NaN.

    Args:
        shares: float ``(N,)``, 0 to 1; the end of a bucket belongs to the next one.
    """
    values = np.asarray(shares, dtype=float)
    found = np.searchsorted(list(SIZES.values())[:-1], values, side="right").astype(np.int64)
    return np.where(np.isnan(values), UNKNOWN, found)


def precision_by_size(
    task: Task, standings: Sequence[Standing], shares: Sequence[NDArray[np.float64]], answered: Collection[int]
) -> dict[str, QueryMean]:
    """mAP with the positives of one size only; those of other or unknown size are junk, as in COCO's figures by area.

    Args:
        task: What was to be found; its main setup counts.
        standings: One per query, of all its positives and junk.
        shares: As :func:`positive_shares` gives them.
        answered: The queries that could be described; the others are left out.

    Returns:
        By the names of :data:`SIZES`; queries without a positive of a size are left out of its mean.
    """
    means = {}
    for number, name in enumerate(SIZES):
        ranks, counts = [], []
        for query, (relevant, standing) in enumerate(zip(task.relevance, standings, strict=True)):
            right = (buckets(shares[query]) == number) & (query in answered)
            junk = np.union1d(relevant.junk, relevant.positives[~right])
            ranks.append(standing.ranks(relevant.positives[right], junk))
            counts.append(int(right.sum()))
        means[name] = mean_average_precision(ranks, counts)
    return means


def localisation_by_size(located: Located, database: Rows) -> dict[str, Localisation]:
    """Mean IoU and CorLoc of the matched boxes, by the size of the true box that each is compared with.

    Args:
        located: Matched boxes of true positives.
        database: The rows that were searched, for the sizes of their photos.
    """
    areas = _item_areas(database)
    shares = [_area(box) / areas.get(item, np.nan) for box, item in zip(located.truths, located.items, strict=True)]
    numbers = buckets(shares)
    return {name: localisation(located.ious[numbers == number]) for number, name in enumerate(SIZES)}


def positive_shares(task: Task, objects: Sequence[Entry], database: Rows) -> list[NDArray[np.float64]]:
    """The share of its photo that the object of each positive covers.

    At image level that is the largest true box of the query's instances in the photo.

    Args:
        task: What is to be found.
        objects: The true boxes.
        database: The rows that are searched, for the sizes of their photos.

    Returns:
        Per query float64 ``(P,)``, one for each of its positives under the main setup; NaN where nobody knows.
    """
    photos, areas = _item_areas(database), _object_areas(objects)

    def share(item: int, query: Entry) -> float:
        entry = task.database[item]
        of_item = areas.get(entry.file, {}) if entry.box is None else {i: _area(entry.box) for i in entry.instances}
        known = [of_item[i] for i in query.instances if i in of_item]
        return max(known, default=np.nan) / photos.get(item, np.nan)

    return [
        np.array([share(item, query) for item in relevant.positives.tolist()], dtype=float)
        for query, relevant in zip(task.queries, task.relevance, strict=True)
    ]


def _object_areas(objects: Sequence[Entry]) -> dict[str, dict[str, float]]:
    """The area of the largest box by file and instance."""
    areas: dict[str, dict[str, float]] = defaultdict(dict)
    for entry in objects:
        for instance in entry.instances:
            if entry.box is not None:
                areas[entry.file][instance] = max(areas[entry.file].get(instance, 0.0), _area(entry.box))
    return areas


def _item_areas(rows: Rows) -> dict[int, float]:
    """The area of the photo of each item that has rows."""
    if rows.sizes is None:
        return {}
    items, first = np.unique(rows.items, return_index=True)
    return dict(zip(items.tolist(), rows.sizes[first].prod(axis=1).astype(float).tolist(), strict=True))


def _area(box: Box | NDArray[np.float32]) -> float:
    x1, y1, x2, y2 = (float(v) for v in box)
    return (x2 - x1) * (y2 - y1)
