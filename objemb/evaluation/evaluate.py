"""Evaluation of a model on a set: describe, search, re-rank, score."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np

from objemb.datasets.evaluation_set import EvaluationSet
from objemb.describers.base import Describer
from objemb.describers.capabilities import FeatureDescriber
from objemb.detectors.base import Detector
from objemb.evaluation.coverage import Coverage, cover
from objemb.evaluation.described import WHOLE, DescribedTask, describe_task
from objemb.evaluation.metrics import Localisation, known
from objemb.evaluation.ranks import RankedItems, rank_items
from objemb.evaluation.retrieval_task import RetrievalTask
from objemb.evaluation.scoring import GAP, Guesses, Located, Scores, listed_items, locate, score
from objemb.evaluation.word_ranks import WordRanking
from objemb.images.decode import read_photo
from objemb.models.base import EmbeddingModel
from objemb.rerank._database import DenseDatabase
from objemb.rerank.base import Reranker, Search, search_and_rerank
from objemb.structures import ImageRows, ImageWords, Photo, SearchResult
from objemb.types import Int64Array

#: Gives the places of items, from one list of items per query.
Ranker: TypeAlias = Callable[[Sequence[Int64Array]], list[RankedItems]]


@dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation.

    Attributes:
        scores: Scores of the rankings.
        located: The matched boxes of true positives at image level, if true boxes are known, otherwise None.
        coverage: How well the regions of the database cover the true boxes, under the same conditions.
        storage: ``vectors`` in total, ``vectors_per_image`` and ``bytes_per_image`` (float32) per database photo. For
            visual words, these are the number of residuals and the bytes of an index, positions included.
        seconds: ``describe_per_image`` and ``describe_per_query`` (decoding included), ``search_per_query`` (the
            places of all relevant and junk items in complete rankings) and, with re-rankers, ``rerank_per_query``.
        problems: Photos that could not be described, boxes outside their photo, queries without positives.
        results: The best images of each query; empty unless requested or needed. Ids are those of
            :attr:`RetrievalTask.item_ids`.
        ranked: For each query, the places of all relevant and junk items in the ranking.
    """

    scores: Scores
    located: Located | None
    coverage: Coverage | None
    storage: dict[str, float]
    seconds: dict[str, float]
    problems: tuple[str, ...]
    results: tuple[SearchResult, ...] = ()
    ranked: tuple[RankedItems, ...] = ()

    @property
    def localisation(self) -> Localisation | None:
        """Mean IoU and CorLoc of :attr:`located`."""
        return None if self.located is None else self.located.figures

    def to_json(self) -> dict[str, object]:
        """A JSON-ready dict without the results; NaN becomes null."""
        overlap = self.localisation
        return {
            "scores": {name: known(value) for name, value in self.scores.means.items()},
            "queries": self.scores.queries,
            "skipped": self.scores.skipped,
            "setups": {name: setup.queries for name, setup in self.scores.setups.items()},
            "localisation": None if overlap is None else {name: known(v) for name, v in overlap._asdict().items()},
            "coverage": None if self.coverage is None else self.coverage.to_json(),
            "storage": self.storage,
            "seconds": self.seconds,
            "problems": list(self.problems),
            "per_query": self.scores.per_query,
        }


def evaluate(
    model: EmbeddingModel,
    data: EvaluationSet,
    task: RetrievalTask,
    *,
    boxes: Detector | None = None,
    crop: str | None = None,
    query_boxes: str = WHOLE,
    workers: int = 2,
    rerankers: Sequence[Reranker] = (),
    hits: int = 0,
) -> Evaluation:
    """Describe the database and the queries of a task, search exactly, re-rank, and score the complete rankings.

    Args:
        model: The model.
        data: The set.
        task: The retrieval task on the set.
        boxes: At image level, gives the boxes of the database instead of the model's own regions.
        crop: How query boxes are described, as in ``Model.query``, and at object level also the boxes of the database;
            by default as the set says.
        query_boxes: The regions of a query without a box, as in ``Model.query``.
        workers: Number of decoding threads.
        rerankers: Re-rankers, applied in this order.
        hits: Number of best images per query to keep in the results.
    """
    described = describe_task(model, data, task, boxes=boxes, crop=crop, query_boxes=query_boxes, workers=workers)
    with model.computing():
        return evaluate_described(
            described, data, task, rerankers=rerankers, describer=model.photo_describer, hits=hits
        )


def evaluate_described(
    described: DescribedTask,
    data: EvaluationSet,
    task: RetrievalTask,
    *,
    rerankers: Sequence[Reranker] = (),
    describer: Describer | FeatureDescriber | None = None,
    hits: int = 0,
) -> Evaluation:
    """Search, re-rank and score given descriptors. Beyond these, memory does not grow with the number of queries.

    Args:
        described: The descriptors of the task.
        data: The set.
        task: The retrieval task on the set.
        rerankers: Re-rankers, applied in this order. The images that they return come first; all others follow in the
            order of the last search, with the query vectors and the database as the re-rankers changed them.
        describer: The describer of the descriptors, for re-rankers that describe parts of photos. They compute in the
            precision of the enclosing ``Model.computing`` block.
        hits: Number of best images per query to keep in the results.
    """
    needed = max((len(r.junk) + 1 for r in task.relevance), default=0) if GAP in task.protocol.metrics else 0
    depth = max(hits, needed)
    clock = [time.perf_counter()]
    if isinstance(described.database, ImageWords) and isinstance(described.queries, ImageWords):
        words = WordRanking(described.database, described.queries)
        results = words.search(depth, rerankers) if rerankers or depth else ()
        rank: Ranker = words.ranked
    elif isinstance(described.database, ImageRows) and isinstance(described.queries, ImageRows):
        rank, results = partial(rank_items, described.database, described.queries), ()
        if rerankers or depth:
            search = _search(described.database, described.queries, data, task, rerankers, depth, describer)
            asked = ImageRows.from_descriptors(search.queries, search.database.dim)
            rank, results = partial(rank_items, search.database.dense(), asked), search.results
    else:
        found = f"{type(described.database).__name__} and {type(described.queries).__name__}"
        raise TypeError(f"described: expected database and queries of one kind, found {found}")
    clock.append(time.perf_counter())
    numbers = {image: number for number, image in enumerate(described.database.images)}
    ranked = _ranked(rank, listed_items(task), results, numbers)
    clock.append(time.perf_counter())
    answered = set(described.queries.items.tolist())
    problems = (*described.problems, *task.queries_without_positives())
    boxed = task.level == "image" and bool(data.objects)
    return Evaluation(
        scores=score(task, ranked, answered, _guesses(task, results, numbers) if needed else None),
        located=locate(task, ranked, data.objects) if boxed else None,
        coverage=cover(task, described.database, ranked, answered, data.objects) if boxed else None,
        storage=_storage(task, described.database),
        seconds=_seconds(task, described, clock, bool(rerankers)),
        problems=tuple(dict.fromkeys(problems)),
        results=results,
        ranked=tuple(ranked),
    )


def _search(
    database: ImageRows,
    asked: ImageRows,
    data: EvaluationSet,
    task: RetrievalTask,
    rerankers: Sequence[Reranker],
    depth: int,
    describer: Describer | FeatureDescriber | None,
) -> Search:
    """The re-ranked search for all queries; those that could not be described have no rows."""

    def open_item(image: str) -> Photo:
        file = image if task.level == "image" else image.rpartition("#")[0]
        return read_photo(data.photo(file), id=image)

    def open_query(number: int) -> Photo:
        file = task.queries[number].file
        return read_photo(data.photo(file), id=file)

    queries = [asked.descriptors(number) for number in range(len(task.queries))]
    return search_and_rerank(
        queries, DenseDatabase.of_rows(database, open_item), rerankers, depth, describer, open_query
    )


def _ranked(
    rank: Ranker, listed: Sequence[Int64Array], results: Sequence[SearchResult], numbers: Mapping[str, int]
) -> list[RankedItems]:
    """The places of the listed items; if there are results, these come first."""
    if not results:
        return rank(listed)
    first = [np.array([numbers[hit.image] for hit in result], dtype=np.int64) for result in results]
    boxes = [np.array([hit.box for hit in r], dtype=np.float32).reshape(-1, 4) for r in results]
    last = rank([np.union1d(items, of_result) for items, of_result in zip(listed, first, strict=True)])
    return [s.behind(items, at).of(keep) for s, items, at, keep in zip(last, first, boxes, listed, strict=True)]


def _guesses(task: RetrievalTask, results: Sequence[SearchResult], numbers: Mapping[str, int]) -> Guesses:
    """The best image of each query, without junk."""
    scores, correct = np.full(len(task.queries), -np.inf), np.zeros(len(task.queries), dtype=bool)
    for number, (result, relevant) in enumerate(zip(results, task.relevance, strict=True)):
        places = ((numbers[hit.image], hit.score) for hit in result)
        best = next((place for place in places if place[0] not in relevant.junk), None)
        if best is not None:
            correct[number], scores[number] = best[0] in relevant.positives, best[1]
    return Guesses(scores, correct)


def _storage(task: RetrievalTask, database: ImageRows | ImageWords) -> dict[str, float]:
    photos = _photos(task)
    if isinstance(database, ImageWords):
        count, size = database.count, database.nbytes
    else:
        count, size = len(database.vectors), database.vectors.nbytes
    return {"vectors": count, "vectors_per_image": count / photos, "bytes_per_image": size / photos}


def _seconds(task: RetrievalTask, described: DescribedTask, clock: list[float], reranked: bool) -> dict[str, float]:
    """Seconds per photo and per query. ``clock`` has the times before and after the re-ranked search, and after the
    last ranking."""
    start, searched, ranked = clock
    queries = max(1, len(task.queries))
    measured = described.seconds
    return {
        **({"describe_per_image": measured["database"] / _photos(task)} if measured else {}),
        **({"describe_per_query": measured["queries"] / queries} if measured else {}),
        **({"rerank_per_query": (searched - start) / queries} if reranked else {}),
        "search_per_query": (ranked - searched) / queries,
    }


def _photos(task: RetrievalTask) -> int:
    return max(1, len({entry.file for entry in task.database}))
