"""Queries of several views, on an evaluation set.

    python -m tools.benchmarks.views MODEL --set SET.json [--level object] [--queries "kind=in photo"] [--cache DIR]

The table has the mAP of queries of 1, 2 and 4 views for each way to combine them. For each object with at least
four queries, they are taken in groups of four in random order, of which the first 1, 2 or 4 are used, so that all
columns search for the same objects. Photos that show one of the four queries are ignored.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from objemb.datasets.evaluation_set import read_evaluation_set
from objemb.evaluation.metrics import average_precision
from objemb.evaluation.retrieval_task import RetrievalTask, make_task, pick_queries
from objemb.evaluation.task_describer import BoxSource, TaskDescriber
from objemb.models import load_model
from objemb.search.views import SAMPLE, as_combiner
from objemb.structures import ImageRows
from objemb.types import Float32Array, Int64Array

COMBINERS = ("best", "mean", *(f"classifier,strength={s}" for s in (1.0, 3.0, 10.0, 30.0)))
VIEWS = (1, 2, 4)


def scores_of(database: ImageRows, rows: Float32Array) -> Float32Array:
    """The best score of each item ``(N,)``; minus infinity for items without rows."""
    best = np.full(len(database.images), -np.inf, np.float32)
    np.maximum.at(best, database.items, (database.vectors @ rows.T).max(axis=1))
    return best


def rows_of(rows: ImageRows, numbers: Int64Array | list[int]) -> Float32Array:
    """The vectors of some items."""
    return np.concatenate([rows.vectors[rows.items == number] for number in numbers])


def by_object(task: RetrievalTask, random: np.random.Generator) -> dict[str, list[int]]:
    """The queries of each object, in random order."""
    of_object: dict[str, list[int]] = defaultdict(list)
    for number in random.permutation(len(task.queries)).tolist():
        of_object[task.queries[number].instances[0]].append(number)
    return of_object


def views_table(task: RetrievalTask, database: ImageRows, queries: ImageRows, seed: int) -> list[str]:
    """The table in Markdown."""
    groups = [
        numbers[first : first + max(VIEWS)]
        for numbers in by_object(task, np.random.default_rng(seed)).values()
        for first in range(0, len(numbers) - max(VIEWS) + 1, max(VIEWS))
    ]
    picked = np.linspace(0, len(database.vectors), min(SAMPLE, len(database.vectors)), endpoint=False)
    sample, relevance = database.vectors[picked.astype(int)], task.relevance
    lines = [f"{len(groups)} objects and groups of views", "| combine | " + " | ".join(map(str, VIEWS)) + " |"]
    for name in COMBINERS:
        combiner, means = as_combiner(name), []
        for count in VIEWS:
            precisions = []
            for group in groups:
                views = rows_of(queries, group[:count])
                if not len(views):
                    continue
                rows = combiner.combine(views, views[:0], lambda: sample)
                scores = scores_of(database, rows)
                ignored = np.unique(np.concatenate([relevance[n].junk for n in group]))
                positives = np.setdiff1d(np.unique(np.concatenate([relevance[n].positives for n in group])), ignored)
                order = np.argsort(-np.delete(scores, ignored), kind="stable")
                ranks = np.flatnonzero(np.isin(np.delete(np.arange(len(scores)), ignored)[order], positives))
                if len(positives):
                    precisions.append(average_precision(ranks, len(positives)))
            means.append(100 * float(np.mean(precisions)))
        lines.append(f"| {name} | " + " | ".join(f"{mean:.1f}" for mean in means) + " |")
    return lines


def main() -> None:
    """Describe the set, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--set", type=Path, required=True)
    parser.add_argument("--level", choices=("image", "object"), default="image")
    parser.add_argument("--queries", action="append", default=[])
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    data = read_evaluation_set(args.set)
    task = pick_queries(make_task(data, args.level), args.queries)
    describer = TaskDescriber(load_model(args.model), data, BoxSource(), data.crop, "whole", 1, args.cache)
    described, _ = describer.describe(task)
    if not isinstance(described.database, ImageRows) or not isinstance(described.queries, ImageRows):
        raise SystemExit("expected a model of vectors, found one of visual words")
    print("\n".join(views_table(task, described.database, described.queries, args.seed)))


if __name__ == "__main__":
    main()
