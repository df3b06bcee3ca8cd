"""Metrics of subsets: by the size of the query, by the size of the relevant object, and by the kind of query.

Hard attention is meant for small objects in clutter, and a network works best at the sizes that it was trained on; a
mean over all sizes shows neither.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from objemb.datasets.evaluation_set import SetEntry
from objemb.evaluation.metrics import (
    Localisation,
    known,
    localisation,
    mean_average_precision,
    mean_over_queries,
    precision_at_k,
)
from objemb.evaluation.ranks import RankedItems
from objemb.evaluation.retrieval_task import RetrievalTask
from objemb.evaluation.scoring import Located, SetupRanks
from objemb.evaluation.sizes import SIZES, UNKNOWN, WHOLE_PHOTO, side_shares, size_classes
from objemb.structures import Box, ImageRows, ImageWords
from objemb.types import Float64Array, Int64Array

#: The attribute that names the kind of a query, such as ``in photo`` or ``picture``.
KIND = "kind"


class PartFigures(NamedTuple):
    """Metrics of the rankings of some queries.

    Attributes:
        mean_average_precision: mAP by the trapezoid rule; NaN if no query counts.
        precision_at_1: Share of queries whose first hit is a positive, 0 to 1; NaN if no query counts.
        queries: Number of queries with positives.
    """

    mean_average_precision: float
    precision_at_1: float
    queries: int

    @staticmethod
    def of(ranks: Sequence[ArrayLike], num_positives: Sequence[int]) -> PartFigures:
        """Means over queries; those without positives do not count."""
        precision = mean_average_precision(ranks, num_positives)
        first = mean_over_queries(precision_at_k, ranks, num_positives, k=1)
        return PartFigures(precision.value, first.value, precision.queries)

    def to_json(self) -> dict[str, object]:
        """``mAP``, ``P@1`` and ``queries``; NaN becomes null."""
        return {
            "mAP": known(self.mean_average_precision),
            "P@1": known(self.precision_at_1),
            "queries": self.queries,
        }


def by_object_size(
    task: RetrievalTask, ranked: Sequence[RankedItems], shares: Sequence[Float64Array], answered: Collection[int]
) -> dict[str, PartFigures]:
    """Metrics with the positives of one size only; those of other or unknown size are junk, as in COCO's AP by area.

    Args:
        task: The retrieval task; its main setup is used.
        ranked: For each query, the places of all its positives and junk.
        shares: Sizes of the positives, from :func:`positive_shares`.
        answered: Indices of the queries that could be described; the others are left out.

    Returns:
        Metrics by the names of :data:`~objemb.evaluation.sizes.SIZES`; queries without a positive of a size are left
        out of its means.
    """
    lengths = [len(of_query) for of_query in shares]
    classes = np.split(size_classes(np.concatenate([np.zeros(0), *shares])), np.cumsum(lengths[:-1])) if shares else []
    relevance = task.relevance
    figures = {}
    for number, name in enumerate(SIZES):
        ranks, counts = [], []
        for query, (relevant, of_query) in enumerate(zip(relevance, ranked, strict=True)):
            right = classes[query] == number
            count = int(right.sum()) if query in answered else 0
            junk = np.union1d(relevant.junk, relevant.positives[~right]) if count else relevant.junk
            ranks.append(of_query.ranks(relevant.positives[right], junk) if count else np.zeros(0, np.int64))
            counts.append(count)
        figures[name] = PartFigures.of(ranks, counts)
    return figures


def by_query_size(task: RetrievalTask, ranks: SetupRanks, queries: ImageRows | ImageWords) -> dict[str, PartFigures]:
    """Metrics by the side share of a query's box in its photo.

    Args:
        task: The retrieval task.
        ranks: Ranks of the positives under the main setup.
        queries: Rows of the queries, for the sizes of their photos.

    Returns:
        Metrics by the names of :data:`~objemb.evaluation.sizes.SIZES`, and last ``WHOLE_PHOTO`` for queries without a
        box. A query with a box is left out if the size of its photo is not known.
    """
    boxes = _box_table([query.box for query in task.queries])
    classes = size_classes(side_shares(boxes, _photo_sizes(queries, np.arange(len(boxes)))))
    names = (*SIZES, WHOLE_PHOTO)
    groups = {number: names[size] for number, size in enumerate(classes.tolist()) if size != UNKNOWN}
    groups |= {number: WHOLE_PHOTO for number, query in enumerate(task.queries) if query.box is None}
    return _by_group(ranks, groups, names)


def by_kind(task: RetrievalTask, ranks: SetupRanks) -> dict[str, PartFigures]:
    """Metrics by the attribute :data:`KIND` of the queries, in order of first appearance; empty if no query has it."""
    groups = {n: str(query.attributes[KIND]) for n, query in enumerate(task.queries) if KIND in query.attributes}
    return _by_group(ranks, groups, tuple(dict.fromkeys(groups.values())))


def localisation_by_size(located: Located, database: ImageRows | ImageWords) -> dict[str, Localisation]:
    """Mean IoU and CorLoc of the matched boxes, by the size of the true box that each is compared with.

    Args:
        located: Matched boxes of true positives.
        database: The rows that were searched, for the sizes of their photos.
    """
    classes = size_classes(side_shares(located.truths, _photo_sizes(database, located.items)))
    return {name: localisation(located.ious[classes == number]) for number, name in enumerate(SIZES)}


def positive_shares(
    task: RetrievalTask, objects: Sequence[SetEntry], database: ImageRows | ImageWords
) -> list[Float64Array]:
    """The side share of the object of each positive in its photo.

    At image level, the object is the largest of the true boxes of the query's instances in the photo.

    Args:
        task: The retrieval task.
        objects: The true boxes.
        database: The rows of the database, for the sizes of their photos.

    Returns:
        For each query float64 ``(P,)``: the side share of each of its positives under the main setup, NaN if unknown.
    """
    largest = _largest_boxes(objects)

    def box(item: int, query: SetEntry) -> Box | None:
        entry = task.database[item]
        of_item = largest.get(entry.file, {}) if entry.box is None else dict.fromkeys(entry.instances, entry.box)
        return max((of_item[i] for i in query.instances if i in of_item), key=_longer_side, default=None)

    shares = []
    for query, relevant in zip(task.queries, task.relevance, strict=True):
        boxes = _box_table([box(item, query) for item in relevant.positives.tolist()])
        shares.append(side_shares(boxes, _photo_sizes(database, relevant.positives)))
    return shares


def _by_group(ranks: SetupRanks, groups: dict[int, str], names: Sequence[str]) -> dict[str, PartFigures]:
    """Metrics of the queries of each group; queries without a group are left out."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for number, name in groups.items():
        numbers[name].append(number)
    return {
        name: PartFigures.of([ranks.ranks[n] for n in numbers[name]], [ranks.num_positives[n] for n in numbers[name]])
        for name in names
    }


def _largest_boxes(objects: Sequence[SetEntry]) -> dict[str, dict[str, Box]]:
    """The largest box by file and instance."""
    largest: dict[str, dict[str, Box]] = defaultdict(dict)
    for entry in objects:
        for instance in entry.instances:
            if entry.box is not None:
                of_file = largest[entry.file]
                of_file[instance] = max(of_file.get(instance, entry.box), entry.box, key=_longer_side)
    return largest


def _box_table(boxes: Sequence[Box | None]) -> Float64Array:
    """float64 ``(N, 4)``, NaN where there is no box."""
    return np.array([(np.nan,) * 4 if box is None else box for box in boxes], dtype=float).reshape(-1, 4)


def _photo_sizes(rows: ImageRows | ImageWords, items: Int64Array) -> Float64Array:
    """float64 ``(N, 2)``: height and width of the photos of items, NaN for those without rows."""
    sizes = np.full((len(items), 2), np.nan)
    if rows.sizes is not None:
        first, behind = rows.starts[items], rows.starts[items + 1]
        sizes[first < behind] = rows.sizes[first[first < behind]]
    return sizes


def _longer_side(box: Box) -> float:
    x1, y1, x2, y2 = box
    return max(x2 - x1, y2 - y1)
