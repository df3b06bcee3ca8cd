"""Queries of the demo, searched for in the index of the student's vectors."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from objemb.cli.programs.demos.compare import KINDS, of_kind
from objemb.cli.programs.demos.page import Answer
from objemb.datasets.evaluation_set import EvaluationSet, read_evaluation_set
from objemb.datasets.writing import IN_PHOTO, PICTURE
from objemb.evaluation.retrieval_task import RetrievalTask
from objemb.index.store import Index
from objemb.models import Model, load_model
from objemb.structures import RegionDescriptors, SearchResult
from objemb.structures.described import expect_vectors
from objemb.visualize.pictures import result_pictures

#: The kinds of the queries that are shown, in order.
SHOWN = (IN_PHOTO, IN_PHOTO, PICTURE) * 3
ASKED = {IN_PHOTO: "query: the box", PICTURE: "query: the picture"}
HITS = 5


def answers(scenes: Path, model: Path, index: Path) -> list[Answer]:
    """The best hits of evenly spaced queries of each kind of the test scenes, without the query's own photo."""
    data = read_evaluation_set(scenes / "retrieval_test.json")
    tasks = {kind: of_kind(data, kind) for kind in KINDS}
    numbers = {kind: iter(_spread(len(tasks[kind].queries), SHOWN.count(kind))) for kind in KINDS}
    chosen = [(kind, number) for kind in SHOWN if (number := next(numbers[kind], None)) is not None]
    student, store = load_model(model), Index.open(index)
    return [_answer(kind, tasks[kind], number, data, student, store) for kind, number in chosen]


def search_others(index: Index, query: RegionDescriptors, own: Collection[str]) -> SearchResult:
    """The best hits other than the query's ``own`` photos, which would always come first."""
    result = index.search(query, k=HITS + len(own))
    return replace(result, hits=tuple(hit for hit in result if hit.image not in own)[:HITS])


def _spread(count: int, wanted: int) -> range:
    """At most ``wanted`` of ``count`` numbers, evenly spaced."""
    return range(0, count, max(1, count // wanted))[:wanted]


def _answer(kind: str, task: RetrievalTask, number: int, data: EvaluationSet, student: Model, index: Index) -> Answer:
    # the ids of the index are file names without folders, because it was built from a COCO file
    query, relevant = task.queries[number], task.relevance[number]
    paths = {path.name: path for path in (data.photo(entry.file) for entry in task.database)}
    positives, own = (
        {Path(task.database[n].file).name for n in numbers.tolist()}
        for numbers in (relevant.positives, task.own_photos[number])
    )
    path = data.photo(query.file)
    described = expect_vectors("demo", student.query(path, "whole" if query.box is None else [query.box]))
    result = search_others(index, described, own)
    (shown,), hits = result_pictures(result, [path], paths.get)
    return Answer(result, shown, hits, [hit.image in positives for hit in result], ASKED[kind])
