"""Queries of several views, on an evaluation set.

    python -m tools.benchmarks.views MODEL --set SET.json [--level object] [--queries "kind=in photo"]
        [--boxes BOXES.json] [--combine best --combine mean ...] [--views 1 2 4] [--cache DIR]

The table has the mAP of queries of 1, 2 and 4 views (or those of ``--views``) for each way to combine them. The queries
for each object are taken in groups of four (the largest of ``--views``) in random order, of which the first 1, 2 or 4
are used, so that all columns search for the same objects. The photos of all queries of a group are ignored.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from objemb.datasets.evaluation_set import read_evaluation_set
from objemb.detectors.stored_boxes import StoredBoxes
from objemb.evaluation.metrics import average_precision
from objemb.evaluation.retrieval_task import RetrievalTask, make_task, pick_queries
from objemb.evaluation.task_describer import BoxSource, TaskDescriber
from objemb.models import load_model
from objemb.search.views import SAMPLE, as_combiner
from objemb.structures import ImageRows
from objemb.types import Float32Array, Int64Array

COMBINERS = ("best", "mean", "classifier")
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


def views_table(
    task: RetrievalTask,
    database: ImageRows,
    queries: ImageRows,
    combiners: Sequence[str],
    views: Sequence[int],
    seed: int,
) -> list[str]:
    """The table in Markdown."""
    groups = [
        numbers[first : first + max(views)]
        for numbers in by_object(task, np.random.default_rng(seed)).values()
        for first in range(0, len(numbers) - max(views) + 1, max(views))
    ]
    if not groups:
        raise SystemExit(f"--views: expected an object with at least {max(views)} queries, found none")
    picked = np.linspace(0, len(database.vectors), min(SAMPLE, len(database.vectors)), endpoint=False)
    sample, relevance = database.vectors[picked.astype(int)], task.relevance
    lines = [f"{len(groups)} objects and groups of views", "| combine | " + " | ".join(map(str, views)) + " |"]
    for name in combiners:
        combiner, means = as_combiner(name), []
        for count in views:
            precisions = []
            for group in groups:
                seen = rows_of(queries, group[:count])
                if not len(seen):
                    continue
                rows = combiner.combine(seen, seen[:0], lambda: sample)
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
    parser.add_argument("--boxes", type=Path, help="boxes of the database  [those the model finds]")
    parser.add_argument("--combine", action="append", help=f"repeatable  [{', '.join(COMBINERS)}]")
    parser.add_argument("--views", type=int, nargs="+", default=VIEWS)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    data = read_evaluation_set(args.set)
    task = pick_queries(make_task(data, args.level), args.queries)
    boxes = BoxSource.of_file(None if args.boxes is None else StoredBoxes(args.boxes))
    describer = TaskDescriber(load_model(args.model), data, boxes, data.crop, "whole", 1, args.cache)
    described, _ = describer.describe(task)
    if not isinstance(described.database, ImageRows) or not isinstance(described.queries, ImageRows):
        raise SystemExit("expected a model of vectors, found one of visual words")
    combiners = args.combine or COMBINERS
    lines = views_table(task, described.database, described.queries, combiners, args.views, args.seed)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
