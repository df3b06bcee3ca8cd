"""Kill writers of an index at random moments, corrupt its files at random places, and check the index afterwards.

    python tools/torture_index.py --kills 200 --corruptions 1000 --seed 0
    python tools/torture_index.py --kind words
    python tools/torture_index.py --kills 0 --corruptions 0 --migrations 100

After every kill the index must open, verify, and hold exactly what was published: the last state that the writer
acknowledged in its journal, or the one that it was publishing when it was killed. After every corruption ``verify``
must report a problem, and opening and searching must either work or raise an ``ObjembError``. ``--migrations`` kills
migrations to another model (``tools/torture_migration.py``). The counts are printed as JSON; the exit code is 1 if
anything failed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from objemb.checks import ObjembError
from objemb.index.storage.files import DATA_FILE
from objemb.index.storage.manifest import MANIFEST_FILE, read_manifest
from objemb.index.storage.schema import RowSchema
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.storage.verify import verify
from objemb.index.storage.visual_words import WordRows
from objemb.index.store import Index
from objemb.structures import Described, RegionDescriptors, Regions, Scalar, VisualWords, WordPlaces
from objemb.types import Uint8Array

DIM = 192
SIZE = (480, 640)
IDS = 250
#: A writer is killed within this many seconds of one of its first ``STEPS`` steps; a step takes about as long.
LIFETIME = 0.05
STEPS = 6
WORDS = 300
SCHEMAS: dict[str, RowSchema] = {
    "vectors": UnitVectors(DIM),
    "words": WordRows(DIM, WORDS, items="regions", positions=True),
}
#: The contents of an index: the version of every image.
State = dict[str, int]


def described(image: str, version: int, kind: str) -> Described:
    """The image in this version, a function of the arguments alone."""
    rng = np.random.default_rng(zlib.crc32(f"{image} {version}".encode()))
    count = int(rng.integers(0, 12))
    vectors = rng.standard_normal((count, DIM)).astype(np.float32)
    corners = rng.random((count, 2, 2), dtype=np.float32) * np.array([SIZE[1], SIZE[0]], dtype=np.float32)
    regions = Regions(
        boxes=torch.from_numpy(np.sort(corners, axis=1).reshape(count, 4)),
        size=SIZE,
        scores=torch.from_numpy(rng.random(count, dtype=np.float32)),
        labels=torch.from_numpy(rng.integers(-1, 3, count)),
        classes=("bottle", "can", "jar"),
    )
    if kind == "words":
        return _in_words(image, regions, rng, {"version": version})
    return RegionDescriptors(
        image, regions, torch.nn.functional.normalize(torch.from_numpy(vectors), dim=1), {"version": version}
    )


def _in_words(image: str, regions: Regions, rng: np.random.Generator, metadata: dict[str, Scalar]) -> VisualWords:
    counts = rng.integers(0, 20, len(regions))
    words = [np.sort(rng.choice(WORDS, count, replace=False)) for count in counts]
    features = int(rng.integers(0, 40)) if len(regions) else 0
    places = WordPlaces(
        rng.integers(0, WORDS, features).astype(np.int32),
        rng.random((features, 2), dtype=np.float32) * np.array([SIZE[1], SIZE[0]], dtype=np.float32),
        _signs(rng, features),
    )
    return VisualWords(
        image,
        regions,
        DIM,
        np.repeat(np.arange(len(regions)), counts),
        np.concatenate([np.zeros(0, np.int32), *words]).astype(np.int32),
        _signs(rng, int(counts.sum())),
        np.ones(counts.sum(), np.float32),
        rng.random(len(regions), dtype=np.float32),
        places,
        metadata,
    )


def _signs(rng: np.random.Generator, count: int) -> Uint8Array:
    return np.packbits(rng.random((count, DIM)) < 0.5, axis=1)


class Journal:
    """A log of what a writer is about to publish and of what it has published; ``append`` returns once it is on
    disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, entry: dict[str, Any]) -> None:
        with open(self._path, "ab") as file:
            file.write(json.dumps(entry).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def states(self) -> tuple[State, State | None]:
        """The acknowledged state, and the one that was being published, if any."""
        state: State = {}
        pending: State | None = None
        for entry in self._entries():
            if "begin" in entry:
                pending = {**state, **entry["begin"]}
                for image in entry["delete"]:
                    pending.pop(image, None)
            elif entry["published"]:
                state, pending = pending or state, None
            else:
                pending = None
        return state, pending

    def _entries(self) -> Iterator[dict[str, Any]]:
        data = self._path.read_bytes() if self._path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):  # the writer was killed in the middle of a line
            os.truncate(self._path, len(whole))
        yield from (json.loads(line) for line in whole.splitlines())


def work(folder: Path, journal_path: Path, kind: str, seed: int, steps: Connection) -> None:
    """Index, delete and compact at random until killed. A message is sent before each step."""
    torch.set_num_threads(1)
    rng = random.Random(seed)
    journal = Journal(journal_path)
    index = Index.open(folder)
    while True:
        steps.send(None)
        state, _ = journal.states()
        if rng.random() < 0.2:
            index.compact()
            continue
        begin, delete = changes(rng, state)
        with index.writer(flush_rows=rng.choice([16, 64, 1000])) as writer:
            for image, version in begin.items():
                writer.add(described(image, version, kind), stamp=str(version))
            writer.delete(delete)
            journal.append({"begin": begin, "delete": delete})
            writer.commit()
            journal.append({"published": True})


def changes(rng: random.Random, state: State) -> tuple[State, list[str]]:
    """Images to add or replace, with their new versions, and images to delete."""
    picked = rng.sample([f"photo {n}.jpg" for n in range(IDS)], rng.randint(1, 40))
    added = picked[: rng.randint(0, len(picked))] if rng.random() < 0.8 else []
    return {i: state.get(i, 0) + rng.randint(1, 99) for i in added}, picked[len(added) :]


def kill_once(folder: Path, journal_path: Path, kind: str, seed: int, result: dict[str, Any]) -> None:
    """Start a writer, kill it, check the index, and record in the journal what had been published."""
    context, journal = multiprocessing.get_context("forkserver"), Journal(journal_path)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=work, args=(folder, journal_path, kind, seed, sender), daemon=True)
    child.start()
    sender.close()
    rng = random.Random(seed)
    for _ in range(rng.randint(1, STEPS)):
        receiver.recv()
    time.sleep(rng.uniform(0, LIFETIME))
    child.kill()
    child.join()
    receiver.close()
    if child.exitcode != -9:
        result["failures"].append(f"kill {seed}: the writer exited with code {child.exitcode} before it was killed")
    state, pending = journal.states()
    result["leftover_files"] += count_leftovers(folder)
    problems, contents = inspect(folder, kind)
    result["failures"] += [f"kill {seed}: {p}" for p in problems]
    if contents not in (state, pending):
        result["failures"].append(f"kill {seed}: the index holds neither the acknowledged state nor the next one")
    if pending is not None:
        applied = contents == pending
        result["killed_while_publishing"] += 1
        result["published_before_death"] += applied
        journal.append({"published": applied})


def inspect(folder: Path, kind: str) -> tuple[list[str], State]:
    """Problems of an index, and its contents. What is stored of each image is compared bit by bit with its version."""
    index = Index.open(folder)
    problems = index.verify()
    contents: State = {}
    for image, stamp, metadata in index.images():
        contents[image] = int(stamp or -1)
        if metadata != {"version": contents[image]}:
            problems.append(f"{image}: stamp {stamp} and metadata {metadata} differ")
        if not same(index.schema, index.get(image), described(image, contents[image], kind)):
            problems.append(f"{image}: contents differ from version {stamp}")
    return problems, contents


def same(schema: RowSchema, stored: Described | None, expected: Described) -> bool:
    """Whether everything that is stored of an image equals what is expected."""
    if stored is None:
        return False
    columns, expected_columns = schema.encode(stored), schema.encode(expected)
    regions, expected_regions = stored.regions, expected.regions
    return (
        all(np.array_equal(columns[name], expected_columns[name]) for name in expected_columns)
        and regions.size == expected_regions.size
        and np.array_equal(regions.boxes, expected_regions.boxes)
        and np.array_equal(regions.scores, expected_regions.scores)
        and regions.label_names == expected_regions.label_names
    )


def count_leftovers(folder: Path) -> int:
    """The number of files that are not part of the published state."""
    needed = {f.name for f in read_manifest(folder).files}
    return sum(1 for p in folder.iterdir() if DATA_FILE.fullmatch(p.name) and p.name not in needed)


def torture_by_killing(folder: Path, kind: str, kills: int, seed: int) -> dict[str, Any]:
    """Kill ``kills`` writers of one index, one after another."""
    multiprocessing.set_forkserver_preload(["objemb.index.store", "torch"])
    result: dict[str, Any] = {"kills": kills, "killed_while_publishing": 0, "published_before_death": 0}
    result |= {"leftover_files": 0, "failures": []}
    index_folder, journal_path = folder / "killed", folder / "journal"
    Index.create(index_folder, schema=SCHEMAS[kind], fingerprint="torture")
    for number in range(kills):
        kill_once(index_folder, journal_path, kind, seed + number, result)
    with Index.open(index_folder).writer():
        pass
    result["files_left_after_the_next_writer"] = count_leftovers(index_folder)
    result["generations"] = read_manifest(index_folder).generation
    return result


def build_varied(folder: Path, kind: str, rng: random.Random) -> Index:
    """An index with several segments, deleted images and, where FAISS is installed, an approximate structure."""
    index = Index.create(folder, schema=SCHEMAS[kind], fingerprint="torture", model={"describer": {"name": "none"}})
    for start in range(0, 120, 40):
        with index.writer(flush_rows=200) as writer:
            for number in range(start, start + 40):
                writer.add(described(f"photo {number}.jpg", rng.randint(1, 99), kind))
    if kind == "vectors":
        with suppress(ImportError):
            index.build_structure()
    index.delete([f"photo {n}.jpg" for n in range(0, 120, 7)])
    return index


@contextmanager
def corrupted(path: Path, rng: random.Random) -> Iterator[str]:
    """Change one byte or cut off the end of a file; yields a description of the change and undoes it afterwards."""
    original = path.read_bytes()
    place = rng.randrange(len(original))
    if rng.random() < 0.5:
        changed, what = original[:place], f"{path.name} truncated to {place} of {len(original)} bytes"
    else:
        byte = original[place] ^ rng.randint(1, 255)
        changed = original[:place] + bytes([byte]) + original[place + 1 :]
        what = f"{path.name} byte {place} changed from {original[place]} to {byte}"
    path.write_bytes(changed)
    try:
        yield what
    finally:
        path.write_bytes(original)


def use(folder: Path, kind: str) -> None:
    """Use everything that reads an index."""
    index = Index.open(folder)
    index.info()
    list(index.images())
    approximate = index.info()["approximate"] is not None
    for exact in (True, False) if approximate else (True,):
        index.search(described("query", 2, kind), 5, where="label = bottle and version > 3", exact=exact)
    index.get("photo 1.jpg")


def attempt(action: Callable[[], Any]) -> tuple[Any, str | None, str | None]:
    """``(result, refusal, crash)`` of an action: an ``ObjembError`` is a refusal, any other exception a crash."""
    try:
        return action(), None, None
    except ObjembError as error:
        return None, str(error), None
    except Exception as error:
        return None, None, f"{type(error).__name__}: {error}"


def torture_by_corruption(folder: Path, kind: str, count: int, seed: int) -> dict[str, Any]:
    """Corrupt a healthy index ``count`` times, undoing each corruption before the next."""
    rng = random.Random(seed)
    index = build_varied(folder / "corrupted", kind, rng)
    files = [p for p in sorted(index.path.iterdir()) if p.stat().st_size]
    result: dict[str, Any] = {"corruptions": count, "detected": 0, "refused": 0, "undetected": [], "crashes": []}
    for _ in range(count):
        with corrupted(rng.choice(files), rng) as what:
            problems, _, crash = attempt(lambda: verify(index.path))
            _, refusal, other_crash = attempt(lambda: use(index.path, kind))
        result["refused"] += refusal is not None
        result["detected"] += bool(problems)
        result["undetected"] += [] if problems else [what]
        result["crashes"] += [f"{what}: {c}" for c in (crash, other_crash) if c]
    result["intact_afterwards"] = not index.verify() and MANIFEST_FILE in {p.name for p in files}
    return result


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run both tests and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=tuple(SCHEMAS), default="vectors", help="the kind of rows")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--corruptions", type=int, default=1000)
    parser.add_argument("--migrations", type=int, default=0, help="migrations to another model that are killed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--folder", type=Path, help="work in a new folder inside this one (default: where temporary files go)"
    )
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        result: dict[str, Any] = {
            "killing": torture_by_killing(Path(folder), options.kind, options.kills, options.seed),
            "corruption": torture_by_corruption(Path(folder), options.kind, options.corruptions, options.seed),
        }
        if options.migrations:
            sys.path.insert(0, str(Path(__file__).parents[1]))
            from tools.torture_migration import torture_by_migrating  # it needs networks, the rest does not

            result["migrating"] = torture_by_migrating(Path(folder) / "migrated", options.migrations, options.seed)
    killing, corruption = result["killing"], result["corruption"]
    result["passed"] = not (
        killing["failures"]
        or killing["files_left_after_the_next_writer"]
        or corruption["undetected"]
        or corruption["crashes"]
        or not corruption["intact_afterwards"]
        or result.get("migrating", {"failures": []})["failures"]
    )
    print(json.dumps(result, indent=1))
    return result


if __name__ == "__main__":
    sys.exit(0 if main()["passed"] else 1)
