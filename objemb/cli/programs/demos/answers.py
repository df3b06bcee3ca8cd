"""Queries of the demo, searched in the index that the student has filled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from objemb.cli.pictures import result_pictures
from objemb.cli.programs.demos.compare import SEARCHED
from objemb.cli.programs.demos.page import Answer
from objemb.evaluation.protocol import read_evaluation_set
from objemb.evaluation.task import make_task, pick_queries
from objemb.index.store import Index
from objemb.models import load_model
from objemb.structures import RegionDescriptors, SearchResult

QUERIES = 8
HITS = 5


def answers(scenes: Path, model: Path, index: Path) -> list[Answer]:
    """The best hits of queries in even steps through those of the test scenes, own photo left out.

    The index was made from a COCO file, which calls the scenes by their names alone.
    """
    data = read_evaluation_set(scenes / "retrieval_test.json")
    task = pick_queries(make_task(data), SEARCHED)
    student, store = load_model(model), Index.open(index)
    step = max(1, len(task.queries) // QUERIES)
    found = []
    for number in range(0, len(task.queries), step)[:QUERIES]:
        query = task.queries[number]
        path = data.photo(query.file)
        asked = student.query(path, None if query.box is None else [query.box])
        result = search_others(store, asked, path.name)
        pictures = result_pictures(result, path, path.with_name)
        positives = {Path(task.database[n].file).name for n in task.relevance[number].positives.tolist()}
        found.append(Answer(result, *pictures, [hit.image in positives for hit in result]))
    return found


def search_others(index: Index, asked: RegionDescriptors, own: str) -> SearchResult:
    """The best hits but for the query's own photo, ``own`` in the index, which finds itself first."""
    result = index.search(asked, k=HITS + 1)
    return replace(result, hits=tuple(hit for hit in result if hit.image != own)[:HITS])
