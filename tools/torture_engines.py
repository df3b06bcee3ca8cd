"""Kill writers of an index at an address, and its server, while the same photos are replaced, and check what is there.

    python tools/torture_engines.py --postgres 100 --lance 100 --qdrant 100
    python tools/torture_engines.py --postgres 100 --server

A writer replaces the same 50 photos again and again, each with another number of boxes, and tells of every batch that
was acknowledged. After every kill (SIGKILL) each photo must be whole, of the version that was acknowledged last or of
one that was being written, and ``verify`` must find nothing. ``--server`` kills the PostgreSQL server with the writer,
and starts it again. Qdrant is Qdrant Edge, the core of its server in the process of the writer: parts of a version may
be left there, which readers do not show; after the last kill, writing all photos once more must have removed them. The
counts are printed as JSON; the exit code is 1 if anything failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from unittest.mock import patch

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from objemb.index.collection import ImageCollection
from objemb.index.opening import create_index, open_index
from objemb.index.remote.conformance import DIM, photo, unit
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.structures import RegionDescriptors
from tests.index.stores.servers import postgres

PHOTOS, BATCH = 50, 10
GROUPS = PHOTOS // BATCH
#: A writer is killed within this many seconds after its first batch.
LIFETIME = 0.4
#: Most seconds that a writer may need for its first batch.
MAX_START = 600.0
#: Problems that are listed.
SHOWN = 10


def version_of(image: int, version: int) -> RegionDescriptors:
    """A photo whose number of boxes, vectors and metadata follow from its version."""
    rng = np.random.default_rng([image, 1 + version])
    return photo(f"photo {image}", unit(rng, 1 + (version + image) % 7), {"version": version})


@contextlib.contextmanager
def reached(edge: Path | None) -> Iterator[None]:
    """Connections to Qdrant lead to Qdrant Edge in a folder, if one is given; no other process may hold it."""
    if edge is None:
        yield
        return
    from tests.index.stores.edge import EdgeClient

    with contextlib.closing(EdgeClient(edge)) as client, patch("objemb.index.stores.qdrant.connect", lambda a: client):
        yield


def write(address: str, first: int, told: Connection, edge: Path | None) -> None:
    """Replace all photos again and again, in batches, until killed; tells the number of every acknowledged batch."""
    with reached(edge):
        batch = first
        while True:
            write_batch(open_index(address), batch)
            told.send(batch)
            batch += 1


def write_batch(index: ImageCollection, batch: int) -> None:
    """Replace a group of photos."""
    with index.writer() as writer:
        for image in range(BATCH * (batch % GROUPS), BATCH * (batch % GROUPS + 1)):
            writer.add(version_of(image, batch))


def torture(
    address: str, kills: int, seed: int, kill_server: Callable[[], None] | None = None, edge: Path | None = None
) -> tuple[int, list[str]]:
    """Kill writers of a new index, of Qdrant Edge if its folder is given.

    Returns:
        The number of batches that were acknowledged, and the problems.
    """
    context, rng = multiprocessing.get_context("forkserver"), random.Random(seed)
    context.set_forkserver_preload(["objemb.index.remote.conformance", "objemb.index.remote.index"])
    with reached(edge):
        index = create_index(address, schema=UnitVectors(DIM), fingerprint="torture")
        with index.writer() as writer:
            for image in range(PHOTOS):
                writer.add(version_of(image, -1))
    acknowledged = dict.fromkeys(range(GROUPS), -1)  # the last batch of each group of photos
    first, count, problems = 0, 0, list[str]()
    for number in range(kills):
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=write, args=(address, first, there, edge))
        process.start()
        there.close()
        here.poll(MAX_START)  # a kill before the first batch would show nothing
        time.sleep(rng.uniform(0, LIFETIME))
        process.kill()
        if kill_server is not None:
            kill_server()
        process.join()
        try:
            while here.poll():
                batch = here.recv()
                acknowledged[batch % GROUPS] = batch
                count += 1
        except EOFError:
            pass
        with reached(edge):
            found = check(open_index(address), acknowledged, parts_may_be_left=edge is not None)
            stored = [int(str(one.metadata["version"])) for one in open_index(address).images()]
        problems += [f"kill {number}: {problem}" for problem in found]
        first = 1 + max(*acknowledged.values(), *stored)
        print(f"kill {number + 1} of {kills}: {count} batches, {len(problems)} problems", file=sys.stderr)
    with reached(edge):
        for batch in range(first, first + GROUPS):
            write_batch(open_index(address), batch)
        problems += [f"at the end: {problem}" for problem in open_index(address).verify()]
    return count, problems


def check(index: ImageCollection, acknowledged: Mapping[int, int], *, parts_may_be_left: bool) -> list[str]:
    """What is wrong after a kill; ``acknowledged`` is the last acknowledged batch of each group of photos."""
    problems, seen = [] if parts_may_be_left else index.verify(), 0
    for stored, _ in index.described():
        seen += 1
        image, version = int(stored.image.split()[1]), stored.metadata["version"]
        assert isinstance(version, int)
        expected = version_of(image, version)
        assert isinstance(stored, RegionDescriptors)
        if not np.array_equal(stored.vectors, expected.vectors):
            problems.append(f"{stored.image}: rows of other versions than {version}")
        least = acknowledged[image // BATCH]
        if version < least:
            problems.append(f"{stored.image}: version {version}, although {least} was acknowledged")
    return problems if seen == PHOTOS else [*problems, f"{seen} photos of {PHOTOS}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--postgres", type=int, default=0, metavar="KILLS")
    parser.add_argument("--lance", type=int, default=0, metavar="KILLS")
    parser.add_argument("--qdrant", type=int, default=0, metavar="KILLS")
    parser.add_argument("--server", action="store_true", help="kill the PostgreSQL server as well")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    report = {}
    if args.postgres:
        server = postgres()
        if server is None:
            parser.error("--postgres: expected the packages pgserver and psycopg")

        def restart() -> None:
            server.kill()
            time.sleep(0.2)
            server.start()

        # a machine that is busy with something else may let a client wait
        address = f"{server.address('torture')}&connect_timeout=600"
        report["postgresql"] = torture(address, args.postgres, args.seed, restart if args.server else None)
    if args.lance:
        with tempfile.TemporaryDirectory() as place:
            report["lance"] = torture(f"lance:{place}/torture", args.lance, args.seed)
    if args.qdrant:
        with tempfile.TemporaryDirectory() as place:
            edge = Path(place) / "edge"
            report["qdrant"] = torture("qdrant://localhost/torture", args.qdrant, args.seed, edge=edge)
    kills = {"postgresql": args.postgres, "lance": args.lance, "qdrant": args.qdrant}
    print(
        json.dumps(
            {
                name: {"kills": kills[name], "batches": batches, "problems": problems[:SHOWN], "failed": len(problems)}
                for name, (batches, problems) in report.items()
            },
            indent=2,
        )
    )
    sys.exit(any(problems for _, problems in report.values()))


if __name__ == "__main__":
    main()
