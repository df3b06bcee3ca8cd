"""How often queries whose object is absent find anything, on an evaluation set, beside the number that was asked for.

    python -m tools.benchmarks.false_alarms MODEL --set SET.json [--level object] [--queries "kind=in photo"] [--column]

Each object in turn is absent: the photos that show it are taken out of the database, the other photos calibrate, as
``objemb calibrate --instance label`` does (up to 1,000 rows, each without the photos that share an object with its
own), and the queries for the object are searched for. With ``--column`` they calibrate as ``--instance COLUMN`` does: a
photo has the name of its first object alone, and the row that is most like one in other photos of that name stands for
it. The same queries in the whole database are those whose object is present, with the calibration without it. For each
asked number of false photos, the table has

- false alarms: the share of absent queries that find a photo, and the share of objects for which that happens;
- misses: the share of present queries of which no photo with the object is left, beside those of which there is
  none at rank 1 without any limit.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from objemb.datasets.evaluation_set import read_evaluation_set
from objemb.evaluation.retrieval_task import RetrievalTask, make_task, pick_queries
from objemb.evaluation.task_describer import BoxSource, TaskDescriber
from objemb.index.storage.calibration import Calibration
from objemb.models import load_model
from objemb.ops.upper_tail import fit_upper_tail
from objemb.search.calibration import COMPARED, QUERIES
from objemb.structures import ImageRows
from objemb.types import BoolArray, Float32Array, Int64Array

ASKED = (1.0, 0.3, 0.1, 0.05, 0.02, 0.01)


def best_scores(database: ImageRows, rows: Float32Array) -> Float32Array:
    """The best score of each item for each row ``(N, M)``; minus infinity for items without rows."""
    best = np.full((len(database.images), len(rows)), -np.inf, np.float32)
    np.maximum.at(best, database.items, database.vectors @ rows.T)
    return best


def named_rows(database: ImageRows, names: list[str], kept: BoolArray) -> Int64Array:
    """The row of each kept item with a name that is most similar to a row of other kept items of that name, where there
    are any; a row without others is taken as it is."""
    rows = [np.flatnonzero(database.items == item) for item in range(len(names))]
    of_name: dict[str, list[int]] = {}
    named = [item for item in np.flatnonzero(kept).tolist() if names[item]]
    for item in named:
        of_name.setdefault(names[item], []).append(item)
    picked = []
    for item in named:
        mine = rows[item]
        others = [other for other in of_name[names[item]][: COMPARED + 1] if other != item]
        if len(mine) > 1 and others:
            compared = database.vectors[np.concatenate([rows[other] for other in others])]
            mine = mine[[int((database.vectors[mine] @ compared.T).max(axis=1).argmax())]]
        if len(mine) == 1:
            picked.append(int(mine[0]))
    return np.array(picked, np.int64)


def calibrated(
    database: ImageRows,
    scores: Float32Array,
    shared: BoolArray,
    kept: BoolArray,
    shown: list[frozenset[str]],
    rows: Int64Array,
) -> Calibration:
    """The calibration of a part of the database.

    Args:
        database: The rows of all items.
        scores: The best scores of all items for these rows ``(N, M)``.
        shared: Whether two items share an object ``(N, N)``.
        kept: Whether an item belongs to the part ``(N,)``.
        shown: The objects of the items.
        rows: The rows of the part that are searched for, or more than are.
    """
    rows = rows[np.linspace(0, len(rows), min(QUERIES, len(rows)), endpoint=False).astype(int)]
    others = kept[:, None] & ~shared[:, database.items[rows]]
    best = np.where(others, scores[:, rows], -np.inf).max(axis=0)
    told = np.isfinite(best)
    objects = {name for item in database.items[rows[told]] for name in shown[item]}
    return Calibration(fit_upper_tail(best[told]), int(told.sum()), len(objects), int(kept.sum()), 0, {})


def table(task: RetrievalTask, database: ImageRows, queries: ImageRows, column: bool) -> list[str]:
    """The table in Markdown; ``column`` as ``--column``."""
    shown = [frozenset(entry.instances) for entry in task.database]
    names = {name: number for number, name in enumerate(sorted(frozenset().union(*shown)))}
    has = np.zeros((len(shown), len(names)), np.int64)
    for item, mine in enumerate(shown):
        has[item, [names[name] for name in mine]] = 1
    first_names = [entry.instances[0] if entry.instances else "" for entry in task.database] if column else []
    named = np.array(first_names)
    shared = named[:, None] == named if column else has @ has.T > 0
    np.fill_diagonal(shared, True)
    within, asked_for = best_scores(database, database.vectors), best_scores(database, queries.vectors)

    alarms, objects, misses, first = [], [], [], []
    images = len(shown)
    for name in sorted({name for query in task.queries for name in query.instances}):
        kept = has[:, names[name]] == 0 if name in names else np.ones(images, bool)
        rows = named_rows(database, first_names, kept) if column else np.flatnonzero(kept[database.items])
        calibration = calibrated(database, within, shared, kept, shown, rows)
        found = []
        for number, query in enumerate(task.queries):
            asked_rows = np.flatnonzero(queries.items == number)
            if name not in query.instances or not len(asked_rows):
                continue
            scores = asked_for[:, asked_rows].max(axis=1)
            scores[task.own_photos[number]] = -np.inf
            expected = calibration.expected_false(float(scores[kept].max()), len(asked_rows), int(kept.sum()))
            found.append([expected <= asked for asked in ASKED])
            right = task.relevance[number].positives
            if len(right):
                expected = calibration.expected_false(float(scores[right].max()), len(asked_rows), images)
                misses.append([expected > asked for asked in ASKED])
                first.append(scores[right].max() < scores.max())
        alarms += found
        objects.append(np.any(found, axis=0) if found else np.zeros(len(ASKED), bool))
    shares = zip(np.mean(alarms, axis=0), np.mean(objects, axis=0), np.mean(misses, axis=0), strict=True)
    return [
        f"{images} photos or boxes, {len(database.items) / images:.1f} rows each, {len(objects)} objects, "
        f"{len(alarms)} absent and {len(misses)} present queries; "
        f"not first of present queries: {np.mean(first):.3f}",
        "| asked | false alarms | objects with any | misses |",
        "|---|---|---|---|",
        *(
            f"| {asked:g} | {alarm:.3f} | {some:.2f} | {miss:.3f} |"
            for asked, (alarm, some, miss) in zip(ASKED, shares, strict=True)
        ),
    ]


def main() -> None:
    """Describe the set, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--set", type=Path, required=True)
    parser.add_argument("--level", choices=("image", "object"), default="image")
    parser.add_argument("--queries", action="append", default=[])
    parser.add_argument("--column", action="store_true", help="calibrate by one name a photo")
    parser.add_argument("--cache", type=Path)
    args = parser.parse_args()
    data = read_evaluation_set(args.set)
    task = pick_queries(make_task(data, args.level), args.queries)
    describer = TaskDescriber(load_model(args.model), data, BoxSource(), data.crop, "whole", 1, args.cache)
    described, _ = describer.describe(task)
    if not isinstance(described.database, ImageRows) or not isinstance(described.queries, ImageRows):
        raise SystemExit("expected a model of vectors, found one of visual words")
    print("\n".join(table(task, described.database, described.queries, args.column)))


if __name__ == "__main__":
    main()
