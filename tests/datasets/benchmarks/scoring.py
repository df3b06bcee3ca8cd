"""Scores of rankings that a test writes down."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from objemb.datasets.evaluation_set import EvaluationSet
from objemb.evaluation.described import DescribedTask
from objemb.evaluation.evaluate import Evaluation, evaluate_described
from objemb.evaluation.retrieval_task import make_task
from objemb.structures import ImageRows


def described_as(data: EvaluationSet, rankings: Sequence[Sequence[str]]) -> DescribedTask:
    """Vectors by which each query finds the images in the order of its ranking: files, best first, all of them.

    Each query has an axis of its own, along which the images lie as far out as the ranking says.
    """
    database = np.zeros((len(data.images), len(rankings)), dtype=np.float32)
    for query, ranking in enumerate(rankings):
        places = {file: place for place, file in enumerate(ranking)}
        for number, image in enumerate(data.images):
            database[number, query] = 1 - places[image.file] / len(data.images)
    database /= max(1, len(rankings))  # at most of unit length
    images, queries = ([entry.file for entry in part] for part in (data.images, data.queries))
    asked = np.eye(len(rankings), dtype=np.float32)
    return DescribedTask(_rows(images, database), _rows(queries, asked), {"database": 0.0, "queries": 0.0})


def scored(data: EvaluationSet, rankings: Sequence[Sequence[str]]) -> Evaluation:
    """What is measured when each query finds the images in this order."""
    return evaluate_described(described_as(data, rankings), data, make_task(data))


def _rows(images: Sequence[str], vectors: np.ndarray) -> ImageRows:
    return ImageRows(tuple(images), vectors, np.arange(len(vectors)), np.zeros((len(vectors), 4), np.float32))
