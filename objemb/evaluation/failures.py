"""The queries with the lowest average precision, and their results."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from objemb.datasets.evaluation_set import SetEntry
from objemb.evaluation.evaluate import Evaluation
from objemb.evaluation.ranks import UNRANKED, RankedItems
from objemb.evaluation.retrieval_task import Relevance, RetrievalTask
from objemb.structures import Box

#: Judgements of an image in a ranking.
RIGHT, WRONG, JUNK, OWN_PHOTO = "right", "wrong", "junk", "own photo"


@dataclass(frozen=True)
class FoundImage:
    """An image in a ranking.

    Attributes:
        file: The photo.
        place: Its place in the complete ranking, from 0, junk included.
        score: Similarity to the query.
        box: The region that matched, xyxy in original pixels; None for an image without a place in the ranking.
        mark: ``right``, ``wrong``, ``junk``, or ``own photo`` if the query's own photo is junk.
        truths: True boxes of the query's instances in the photo, if known.
    """

    file: str
    place: int
    score: float
    box: Box | None
    mark: str
    truths: tuple[Box, ...] = ()


@dataclass(frozen=True)
class Failure:
    """A query with its results.

    Attributes:
        number: Index of the query.
        query: The query.
        average_precision: By the trapezoid rule, under the main setup.
        first_rank: Rank of the first right image, from 0, without junk; None if there is none.
        positives: Number of right images.
        hits: The best images, best first.
        first_right: The first right image if it is not among the hits, otherwise None.
    """

    number: int
    query: SetEntry
    average_precision: float
    first_rank: int | None
    positives: int
    hits: tuple[FoundImage, ...]
    first_right: FoundImage | None


def worst_queries(
    task: RetrievalTask, evaluation: Evaluation, objects: Sequence[SetEntry], most: int, hits: int
) -> list[Failure]:
    """The queries with the lowest average precision, worst first; of equal ones, that with the later first right
    image.

    Args:
        task: The retrieval task.
        evaluation: Its evaluation, with at least ``hits`` images per query in its results.
        objects: The true boxes; may be empty.
        most: Largest number of queries. Those that do not count (nothing is relevant, or they could not be described)
            are left out.
        hits: Largest number of images per query.
    """
    counting = [
        n for n, of_query in enumerate(evaluation.scores.per_query) if of_query["average_precision"] is not None
    ]
    marker = _Marker(task, objects)

    def badness(number: int) -> tuple[float, float, int]:
        figures = evaluation.scores.per_query[number]
        first = np.inf if figures["first_rank"] is None else figures["first_rank"]
        return figures["average_precision"], -first, number

    return [_failure(task, evaluation, number, marker, hits) for number in sorted(counting, key=badness)[:most]]


class _Marker:
    """Marks found images as right, wrong, junk or the query's own photo."""

    def __init__(self, task: RetrievalTask, objects: Sequence[SetEntry]) -> None:
        self.task, self.relevance = task, task.relevance
        self.numbers = {name: number for number, name in enumerate(task.item_ids)}
        self._truths: Mapping[tuple[str, str], list[Box]] = defaultdict(list)
        for entry in objects:
            for instance in entry.instances:
                if entry.box is not None:
                    self._truths[entry.file, instance].append(entry.box)

    def image(self, number: int, item: int, place: int, score: float, box: Box | None) -> FoundImage:
        query, entry = self.task.queries[number], self.task.database[item]
        truths = [b for instance in query.instances for b in self._truths.get((entry.file, instance), ())]
        mark = self._mark(self.relevance[number], number, item)
        return FoundImage(entry.file, place, score, box, mark, tuple(dict.fromkeys(truths)))

    def _mark(self, relevant: Relevance, number: int, item: int) -> str:
        if item in relevant.positives:
            return RIGHT
        if item not in relevant.junk:
            return WRONG
        return OWN_PHOTO if item in self.task.own_photos[number] else JUNK


def _failure(task: RetrievalTask, evaluation: Evaluation, number: int, marker: _Marker, hits: int) -> Failure:
    figures = evaluation.scores.per_query[number]
    result = evaluation.results[number].hits[:hits]
    items = [marker.numbers[hit.image] for hit in result]
    images = [
        marker.image(number, item, place, hit.score, hit.box)
        for place, (item, hit) in enumerate(zip(items, result, strict=True))
    ]
    first = _first_right(evaluation.ranked[number], marker.relevance[number])
    missed = first is not None and first not in items
    return Failure(
        number=number,
        query=task.queries[number],
        average_precision=figures["average_precision"],
        first_rank=figures["first_rank"],
        positives=figures["positives"],
        hits=tuple(images),
        first_right=_ranked_image(marker, number, first, evaluation.ranked[number]) if missed else None,
    )


def _first_right(of_query: RankedItems, relevant: Relevance) -> int | None:
    """The positive with the best place; those without a place come last."""
    of_positives = of_query.of(relevant.positives)
    if not len(of_positives.items):
        return None
    places = np.where(of_positives.places == UNRANKED, np.iinfo(np.int64).max, of_positives.places)
    return int(of_positives.items[places.argmin()])


def _ranked_image(marker: _Marker, number: int, item: int | None, of_query: RankedItems) -> FoundImage | None:
    if item is None:
        return None
    one = of_query.of(np.array([item]))
    x1, y1, x2, y2 = one.boxes[0].tolist()
    box = None if np.isnan(x1) else (x1, y1, x2, y2)
    return marker.image(number, item, int(one.places[0]), float(one.scores[0]), box)
