"""Score features that were computed elsewhere, even millions of them: search, re-rank, and print a table.

.. code-block:: console

    objemb evaluate-features db.npy queries.npy --set rox.json --rerank query_expansion,top=10 -o out.json

DB and QUERIES are float32 NumPy files ``(rows, D)`` of unit vectors; they are mapped, not loaded into memory. Row i of
DB is image i of the set, and row i of QUERIES is query i, unless --items and --query-items give the image or query of
each row as int64 NumPy files ``(rows,)`` in ascending order. Images of DB beyond those of the set are distractors.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from objemb import registry
from objemb.cli.program import environment
from objemb.config import parse_part
from objemb.datasets.evaluation_set import EvaluationSet, SetEntry, read_evaluation_set
from objemb.disk import write_whole
from objemb.evaluation.described import DescribedTask
from objemb.evaluation.evaluate import evaluate_described
from objemb.evaluation.report import markdown_table
from objemb.evaluation.retrieval_task import make_task
from objemb.models.build import SEED
from objemb.rerank.base import Reranker
from objemb.structures import ImageRows
from objemb.types import AnyArray, Float32Array, Int64Array

PROGRAM = "objemb evaluate-features"
#: Numbers that are read at a time when a file is checked.
NUMBERS_AT_ONCE = 1 << 24
#: Tolerance for the length of a unit vector.
LENGTH_SLACK = 1e-3


def main(argv: Sequence[str] | None = None) -> dict[str, object]:
    """Run the program; returns the report that is written."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parse(argv)
    data = read_evaluation_set(args.set)
    database, queries = read_rows(args.database, args.items), read_rows(args.queries, args.query_items)
    check(database, queries, data, args)
    task = make_task(with_distractors(data, database.count))
    files = [query.file for query in task.queries]
    described = DescribedTask(database.named(task.item_ids), queries.named(files), TIMES)
    rerankers = [registry.build(Reranker, settings) for settings in (parse_part("rerank", t) for t in args.rerank)]
    evaluation = evaluate_described(described, replace(data, objects=()), task, rerankers=rerankers)
    result = {
        "method": args.name or args.database.stem,
        "set": data.name,
        "rerank": args.rerank,
        **evaluation.to_json(),
        "dim": described.database.dim,
        "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    report: dict[str, object] = {
        "results": [result],
        "environment": environment(PROGRAM, argv, device="cpu", seed=SEED),
    }
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        write_whole(args.output, json.dumps(report, indent=2, allow_nan=False) + "\n")
    print(markdown_table([result]), end="")
    return report


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=str(__doc__).partition("\n")[0])
    parser.add_argument("database", type=Path, metavar="DB", help="float32 .npy (rows, D) of the database")
    parser.add_argument("queries", type=Path, metavar="QUERIES", help="float32 .npy (rows, D) of the queries")
    parser.add_argument("--set", type=Path, required=True, metavar="JSON", help="images, queries and what is relevant")
    parser.add_argument("--items", type=Path, metavar="NPY", help="the image that each row of DB belongs to")
    parser.add_argument("--query-items", type=Path, metavar="NPY", help="the query that each row belongs to")
    parser.add_argument("--rerank", action="append", default=[], metavar="NAME,KEY=VALUE", help="re-rankers, in order")
    parser.add_argument("--name", help="name of the features in the table (default: the name of DB)")
    parser.add_argument("-o", "--output", type=Path, metavar="JSON", help="write everything that was measured")
    return parser.parse_args(argv)


#: There is no time to report, because nothing is described here.
TIMES = {"database": 0.0, "queries": 0.0}


@dataclass(frozen=True, eq=False)
class Rows:
    """The vectors of a file, with the image or query that each belongs to.

    Attributes:
        vectors: float32 ``(R, D)``, a memory map.
        items: int64 ``(R,)``, ascending: the image or query of each.
    """

    vectors: Float32Array
    items: Int64Array

    @property
    def count(self) -> int:
        """The number of images or queries."""
        return int(self.items[-1]) + 1 if len(self.items) else 0

    def named(self, images: Sequence[str]) -> ImageRows:
        """The rows under the given names of images, without boxes."""
        return ImageRows(tuple(images), self.vectors, self.items, np.zeros((len(self.vectors), 4), np.float32))


def read_rows(file: Path, items: Path | None) -> Rows:
    """Read unit vectors and the items that they belong to.

    Raises:
        ValueError: A file does not hold arrays of the expected shape and type, or a vector is not of unit length.
    """
    vectors = read_array(file)
    if vectors.ndim != 2 or vectors.dtype != np.float32:
        raise ValueError(f"{file}: expected float32 (rows, D), found {vectors.dtype} {vectors.shape}")
    check_lengths(file, vectors)
    numbers = np.arange(len(vectors)) if items is None else np.asarray(read_array(items))
    if numbers.shape != (len(vectors),) or numbers.dtype.kind not in "iu":
        found = f"{numbers.dtype} {numbers.shape}"
        raise ValueError(f"{items}: expected {len(vectors)} whole numbers, one for each row of {file}, found {found}")
    if len(numbers) and (numbers[0] < 0 or np.any(numbers[1:] < numbers[:-1])):
        raise ValueError(f"{items}: expected ascending numbers from 0, found others")
    return Rows(vectors, numbers.astype(np.int64))


def read_array(file: Path) -> AnyArray:
    """Open a NumPy file as a memory map."""
    try:
        array: AnyArray = np.load(file, mmap_mode="r", allow_pickle=False)
        return array
    except (ValueError, EOFError) as error:
        raise ValueError(f"{file}: expected a NumPy file of numbers, found: {error}") from error


def check_lengths(file: Path, vectors: Float32Array) -> None:
    """Check that all vectors are finite and of unit length, or zero."""
    step = max(1, NUMBERS_AT_ONCE // max(1, vectors.shape[1]))
    for first in range(0, len(vectors), step):
        block = vectors[first : first + step]
        lengths = np.sqrt(np.einsum("nd,nd->n", block, block, dtype=np.float64))
        wrong = np.flatnonzero(~((np.abs(lengths - 1) < LENGTH_SLACK) | (lengths == 0)))
        if len(wrong):
            row = int(wrong[0])
            found = f"length {lengths[row]:.4g} in row {first + row}"
            hint = "; its columns have unit length: transpose it to (rows, D)" if _columns_are_unit(vectors) else ""
            raise ValueError(f"{file}: expected unit vectors (divide each by its length), found {found}{hint}")


def _columns_are_unit(vectors: Float32Array) -> bool:
    """Whether a matrix looks like vectors in columns, as MATLAB programs write them."""
    step = max(1, NUMBERS_AT_ONCE // max(1, vectors.shape[1]))
    squares = np.zeros(vectors.shape[1])
    for first in range(0, len(vectors), step):
        block = vectors[first : first + step]
        squares += np.einsum("nd,nd->d", block, block, dtype=np.float64)
    return bool(np.all(np.abs(np.sqrt(squares) - 1) < LENGTH_SLACK))


def check(database: Rows, queries: Rows, data: EvaluationSet, args: argparse.Namespace) -> None:
    """Check that the rows fit the set."""
    if database.vectors.shape[1] != queries.vectors.shape[1]:
        wide, other = database.vectors.shape[1], queries.vectors.shape[1]
        raise ValueError(f"{args.queries}: expected {wide} dimensions as in {args.database}, found {other}")
    images = database.count
    if args.items is None and (images < len(data.images) or (data.distractors and images > len(data.images))):
        expected = f"{'' if data.distractors else 'at least '}{len(data.images)}"
        raise ValueError(f"{args.database}: expected {expected} rows, one for each image of the set, found {images}")
    if queries.count > len(data.queries) or (args.query_items is None and queries.count < len(data.queries)):
        expected = f"{len(data.queries)} queries as in the set"
        raise ValueError(f"{args.query_items or args.queries}: expected {expected}, found {queries.count}")


def with_distractors(data: EvaluationSet, count: int) -> EvaluationSet:
    """The set, filled up with distractors to ``count`` images."""
    further = range(len(data.images), count)
    return replace(data, images=data.images + tuple(SetEntry(f"distractor {n}", ()) for n in further))
