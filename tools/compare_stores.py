"""Whether databases give the answers of a folder on real sets: ranked lists photo by photo, and mAP.

    python tools/compare_stores.py MODEL --set fridge.json --set products.json [--stores postgresql,lance,qdrant]

The photos of each set are described once, and put into an index in a folder and into one of each store. Every query
asks for all photos in order, exactly. Lists are the same if photos, scores to the last bit, and both boxes of every hit
are.
Prints a table in Markdown; the exit code is 1 if a list differs. PostgreSQL is the server of the package pgserver,
Qdrant is Qdrant Edge, the core of its server.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from objemb.datasets.evaluation_set import read_evaluation_set
from objemb.evaluation.described import DescribedTask, describe_task, only_vectors
from objemb.evaluation.ranks import UNRANKED, RankedItems
from objemb.evaluation.retrieval_task import RetrievalTask, make_task
from objemb.evaluation.scoring import listed_items, score
from objemb.index.collection import ImageCollection
from objemb.index.opening import create_index
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.models.opening import open_model
from objemb.structures import SearchResult
from tests.index.stores.servers import local_addresses


@dataclass(frozen=True)
class Compared:
    """What was found of a set and a store.

    Attributes:
        data: Name of the set.
        store: Name of the store.
        photos: Photos in the index.
        rows: Rows in the index.
        lists: Ranked lists.
        same: How many of them are those of the folder.
        mean: mAP of the lists.
    """

    data: str
    store: str
    photos: int
    rows: int
    lists: int
    same: int
    mean: float


def filled(address: str, described: DescribedTask) -> ImageCollection:
    """A new index of the database of a task."""
    rows = only_vectors("compare_stores", described.database)
    index = create_index(address, schema=UnitVectors(rows.dim), fingerprint="compared")
    with index.writer() as writer:
        for number in range(len(rows.images)):
            writer.add(rows.descriptors(number))
    index.refresh()
    return index


def answers_of(index: ImageCollection, described: DescribedTask, photos: int) -> list[SearchResult]:
    """The complete ranked list of each query."""
    queries = only_vectors("compare_stores", described.queries)
    return [
        index.search(queries.descriptors(number), photos, exact=True, runners_up=0)
        for number in range(len(queries.images))
    ]


def mean_of(task: RetrievalTask, described: DescribedTask, answers: Sequence[SearchResult]) -> float:
    """mAP of ranked lists."""
    numbers = {image: number for number, image in enumerate(described.database.images)}
    ranked = []
    for items, answer in zip(listed_items(task), answers, strict=True):
        place = {numbers[hit.image]: at for at, hit in enumerate(answer)}
        places = np.array([place.get(item, UNRANKED) for item in items.tolist()], np.int64)
        empty = np.zeros((len(items), 4), np.float32)
        ranked.append(RankedItems(items, places, np.zeros(len(items), np.float32), empty))
    scores = score(task, ranked, set(only_vectors("compare_stores", described.queries).items.tolist()))
    return next(value for name, value in scores.means.items() if name.startswith("mAP"))


def compared(
    name: str, task: RetrievalTask, described: DescribedTask, addresses: Iterable[tuple[str, str]]
) -> list[Compared]:
    """A set in each store, the folder first."""
    found: list[Compared] = []
    truth: list[SearchResult] = []
    rows = len(only_vectors("compare_stores", described.database).vectors)
    for store, address in addresses:
        index = filled(address, described)
        answers = answers_of(index, described, len(task.database))
        truth = truth or answers
        same = sum(list(answer) == list(true) for answer, true in zip(answers, truth, strict=True))
        mean = mean_of(task, described, answers)
        found.append(Compared(name, store, len(index), rows, len(answers), same, mean))
        print(found[-1], file=sys.stderr)
    return found


def table_of(found: Iterable[Compared]) -> str:
    """The findings as a table in Markdown."""
    lines = [
        "| set | index | photos | rows | lists | those of the folder | mAP |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {c.data} | {c.store} | {c.photos} | {c.rows} | {c.lists} | {c.same} | {100 * c.mean:.4f} |" for c in found
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print the table, and return the exit code."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("model", help="a model folder, or a method with its settings")
    parser.add_argument("--set", dest="sets", action="append", type=Path, required=True, help="an evaluation set")
    parser.add_argument("--stores", default="postgresql,lance,qdrant")
    args = parser.parse_args(arguments)
    model = open_model(args.model)
    found: list[Compared] = []
    for path in args.sets:
        data = read_evaluation_set(path)
        task = make_task(data)
        described = describe_task(model, data, task)
        with tempfile.TemporaryDirectory(prefix="objemb") as place, ExitStack() as stack:
            addresses = local_addresses(("folder", *args.stores.split(",")), Path(place), stack)
            found += compared(path.stem, task, described, addresses.items())
    print(table_of(found))
    return int(any(c.same < c.lists for c in found))


if __name__ == "__main__":
    sys.exit(main())
