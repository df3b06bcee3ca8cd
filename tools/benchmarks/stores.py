"""Indexes in databases compared with one in a folder: rows a second in, time of a query, bytes a row, recall.

.. code-block:: console

    python -m tools.benchmarks.stores --photos 20000 --boxes 5 --stores postgresql,lance,qdrant -o stores.json
    python -m tools.benchmarks.stores --photos 200000 --keep place --queries 0
    python -m tools.benchmarks.stores --photos 200000 --keep place --queries 5 --query-boxes 1

All indexes hold the same rows. Queries of one box and of five, with and without filters that 50, 1 and 0.01 % of the
photos match, alternate between them, after one that does not count; times are medians, relative to the exact search of
the folder, equally filtered. Recall is the share of the 10 best photos of the exact search that the approximate one
finds. PostgreSQL is the server of the package pgserver, with 64 MB of shared buffers and 2 GB for building indexes.
Qdrant is Qdrant Edge, the core of its server, in this process. What ``--keep`` names holds the indexes for further
runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from objemb.disk import write_whole
from objemb.index.collection import ImageCollection
from objemb.index.opening import create_index, open_index
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.structures import RegionDescriptors, Regions
from objemb.types import Float32Array
from tests.index.stores.servers import local_addresses

DIM, K = 128, 10
FILTERS = {"none": None, "50 %": "half = 1", "1 %": "hundredth = 0", "0.01 %": "tenthousandth = 0"}


def vectors_of(rng: np.random.Generator, count: int, centres: Float32Array) -> Float32Array:
    """Unit vectors in clusters: float32 ``(count, DIM)``."""
    rows = centres[rng.integers(0, len(centres), count)] + 0.6 * rng.normal(size=(count, DIM)) / np.sqrt(DIM)
    scaled: Float32Array = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def photos_of(count: int, boxes: int, centres: Float32Array, seed: int) -> Iterator[RegionDescriptors]:
    """Photos with columns for the filters."""
    rng = np.random.default_rng(seed)
    left = np.arange(boxes, dtype=np.float32)
    regions = Regions(np.stack([left, left, left + 50, left + 50], axis=1), (480, 640))
    for number in range(count):
        metadata = {"half": number % 2, "hundredth": number % 100, "tenthousandth": number % 10_000}
        yield RegionDescriptors(f"photo {number:08d}", regions, vectors_of(rng, boxes, centres), metadata)


def filled(address: str, args: argparse.Namespace, centres: Float32Array) -> tuple[ImageCollection, float]:
    """A new index, and the seconds that writing took, without making the rows."""
    index = create_index(address, schema=UnitVectors(DIM), fingerprint="benchmark")
    photos, seconds = photos_of(args.photos, args.boxes, centres, args.seed), 0.0
    with index.writer() as writer:
        for one in photos:
            start = time.perf_counter()
            writer.add(one)
            seconds += time.perf_counter() - start
        start = time.perf_counter()
    seconds += time.perf_counter() - start
    index.refresh()
    return index, seconds


def written(name: str, address: str, args: argparse.Namespace, centres: Float32Array, place: Path) -> dict[str, Any]:
    """What was found when an index was written, now or in an earlier run."""
    noted = place / f"{name}.json"
    facts: dict[str, Any] = json.loads(noted.read_bytes()) if noted.exists() else {}
    if not facts:
        index, seconds = filled(address, args, centres)
        about = index.info()
        rows = about["regions"]
        facts = {"index": name, "rows": rows, "rows a second": rows / seconds}
        if about["bytes"] is not None:
            facts["bytes a row"] = about["bytes"] / rows
        write_whole(noted, json.dumps(facts).encode())
    index = open_index(address)
    if name != "folder" and args.structures and not index.info()["approximate"]:
        start = time.perf_counter()
        index.build_structure()
        facts["seconds of building"] = time.perf_counter() - start
        if (size := index.info()["bytes"]) is not None:
            facts["bytes a row with structure"] = size / facts["rows"]
        write_whole(noted, json.dumps(facts).encode())
    print(facts, file=sys.stderr)
    return facts


def measured(
    index: ImageCollection, query: RegionDescriptors, where: str | None, exact: bool
) -> tuple[float, list[str]]:
    """Seconds of a search, and the photos found."""
    start = time.perf_counter()
    hits = index.search(query, K, where=where, exact=exact, runners_up=0)
    return time.perf_counter() - start, [hit.image for hit in hits]


def compared(
    indexes: dict[str, ImageCollection], args: argparse.Namespace, centres: Float32Array
) -> list[dict[str, Any]]:
    """Times and recall of all indexes."""
    rng, rows = np.random.default_rng(args.seed + 1), []
    ways = [(name, index, exact) for name, index in indexes.items() for exact in (True, False)
            if exact or index.info()["approximate"]]  # fmt: skip
    for boxes in args.query_boxes:
        for label, where in FILTERS.items():
            seconds: dict[tuple[str, bool], list[float]] = {(name, exact): [] for name, _, exact in ways}
            recall: dict[tuple[str, bool], list[float]] = {key: [] for key in seconds}
            differ = dict.fromkeys(seconds, 0)
            for number in range(args.queries + 1):
                regions = Regions(np.tile(np.array([[0, 0, 9, 9]], np.float32), (boxes, 1)), (480, 640))
                query = RegionDescriptors("query", regions, vectors_of(rng, boxes, centres))
                truth: list[str] = []
                for name, index, exact in ways:
                    took, images = measured(index, query, where, exact)
                    truth = truth or images
                    if not number:  # what is read and digested once, such as the columns of a filter
                        continue
                    seconds[name, exact].append(took)
                    differ[name, exact] += images != truth
                    recall[name, exact].append(len({*images} & {*truth}) / max(1, len(truth)))
            base = statistics.median(seconds["folder", True])
            for (name, exact), took_all in seconds.items():
                median = statistics.median(took_all)
                rows.append({
                    "index": name, "search": "exact" if exact else "approximate", "boxes": boxes, "filter": label,
                    "ms": 1000 * median, "times the folder": median / base,
                    "recall": statistics.mean(recall[name, exact]),
                    "other lists": differ[name, exact],
                })  # fmt: skip
                print(rows[-1], file=sys.stderr)
    return rows


def main() -> None:
    """Run the comparison and write the report."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--photos", type=int, default=20_000)
    parser.add_argument("--boxes", type=int, default=5, help="boxes of a photo")
    parser.add_argument("--queries", type=int, default=10, help="queries of each kind")
    parser.add_argument("--stores", default="postgresql,lance")
    parser.add_argument("--query-boxes", type=int, nargs="+", default=[1, 5], metavar="N", help="boxes of a query")
    parser.add_argument("--no-structures", dest="structures", action="store_false", help="do not build any")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where indexes stay for further runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    centres = vectors_of(rng, 2000, np.zeros((1, DIM), np.float32))
    names = ("folder", *args.stores.split(","))
    with tempfile.TemporaryDirectory() if args.keep is None else nullcontext(args.keep) as folder, ExitStack() as stack:
        place = Path(folder).absolute()
        place.mkdir(exist_ok=True)
        addresses = local_addresses(names, place, stack)
        facts = [written(name, addresses[name], args, centres, place) for name in names]
        indexes = {name: open_index(addresses[name]) for name in names} if args.queries else {}
        report = {
            "arguments": vars(args),
            "written": facts,
            "searched": compared(indexes, args, centres) if indexes else [],
        }
    text = json.dumps(report, indent=2, default=str)
    print(text)
    if args.output is not None:
        write_whole(args.output, text.encode())


if __name__ == "__main__":
    main()
