"""Queries of the demo, searched in the index that the student has filled."""

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
    """The best hits of queries in even steps through those of each kind of the test scenes, own photo left out."""
    data = read_evaluation_set(scenes / "retrieval_test.json")
    tasks = {kind: of_kind(data, kind) for kind in KINDS}
    numbers = {kind: iter(_spread(len(tasks[kind].queries), SHOWN.count(kind))) for kind in KINDS}
    chosen = [(kind, number) for kind in SHOWN if (number := next(numbers[kind], None)) is not None]
    student, store = load_model(model), Index.open(index)
    return [_answer(kind, tasks[kind], number, data, student, store) for kind, number in chosen]


def search_others(index: Index, asked: RegionDescriptors, own: Collection[str]) -> SearchResult:
    """The best hits but for the query's ``own`` photos in the index, which find themselves first."""
    result = index.search(asked, k=HITS + len(own))
    return replace(result, hits=tuple(hit for hit in result if hit.image not in own)[:HITS])


def _spread(count: int, wanted: int) -> range:
    """At most so many of ``count`` numbers, in even steps."""
    return range(0, count, max(1, count // wanted))[:wanted]


def _answer(kind: str, task: RetrievalTask, number: int, data: EvaluationSet, student: Model, index: Index) -> Answer:
    """The index was made from a COCO file, which calls the scenes by their names alone."""
    query, relevant = task.queries[number], task.relevance[number]
    paths = {path.name: path for path in (data.photo(entry.file) for entry in task.database)}
    positives, own = (
        {Path(task.database[n].file).name for n in numbers.tolist()}
        for numbers in (relevant.positives, task.own_photos[number])
    )
    path = data.photo(query.file)
    asked = expect_vectors("demo", student.query(path, "whole" if query.box is None else [query.box]))
    result = search_others(index, asked, own)
    pictures = result_pictures(result, path, paths.get)
    return Answer(result, *pictures, [hit.image in positives for hit in result], ASKED[kind])
