"""Exact search against FAISS flat search grouped in Python, and approximate search against exact search."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from objemb.index.codes import encode
from objemb.index.exact import Block, GroupedHits, search_exact
from objemb.index.ivf import IvfIndex, build_ivf, default_probes
from tools.benchmarks.clusters import Collection, clustered_regions
from tools.benchmarks.timing import Ratio, alternate, ratio

FULL = {"images": 100_000, "regions": 10, "dim": 128, "queries": 1000, "rounds": 7}
SMALL = {"images": 300, "regions": 4, "dim": 16, "queries": 70, "rounds": 2}
#: Names of the cases with their queries and rows per query.
CASES = {"1 query of 1 box": (1, 1), "1 query of 5 boxes": (1, 5), "64 queries of 1 box": (64, 1)}
#: Images per query.
DEPTHS = (10, 100)

#: image, score, row, query row
Found = list[list[tuple[int, float, int, int]]]


def run(sizes: Mapping[str, int], seed: int) -> Iterator[Ratio]:
    """All ratios of search."""
    data = clustered_regions(sizes["images"], sizes["regions"], sizes["dim"], sizes["queries"], seed)
    start = time.perf_counter()
    codes = encode(data.vectors)
    encoding = {"encode_seconds": time.perf_counter() - start}
    coded = Block(data.vectors, data.images, codes=codes)
    blocks = {"8-bit codes": coded, "no codes": Block(data.vectors, data.images)}
    flat = Flat(data)
    for task in tasks(data):
        yield from _against_flat(task, flat, blocks, sizes["rounds"], encoding)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        build_ivf([coded], Path(folder) / "ann", kind="ivf_sq8", seed=seed)
        facts: dict[str, Any] = {"build_seconds": time.perf_counter() - start}
        index = IvfIndex.load(Path(folder) / "ann")
    facts |= {"lists": index.lists, "probes": {f"k={k}": default_probes(index.lists, index.covered, k) for k in DEPTHS}}
    for k in DEPTHS:
        yield _recall(data, index, coded, k, facts)
    for task in tasks(data):
        yield from _against_exact(task, index, blocks, sizes["rounds"])


@dataclass(frozen=True, eq=False)
class Task:
    """Some queries and how many images each wants."""

    name: str
    queries: NDArray[np.float32]
    groups: NDArray[np.int64]
    k: int

    def search(self, block: Block) -> GroupedHits:
        return search_exact([block], self.queries, self.groups, self.k)


def tasks(data: Collection) -> Iterator[Task]:
    """All cases at all depths."""
    for name, (count, rows) in CASES.items():
        for k in DEPTHS:
            yield Task(f"{name}, k={k}", data.queries[: count * rows], np.repeat(np.arange(count), rows), k)


def _against_flat(
    task: Task, flat: Flat, blocks: Mapping[str, Block], rounds: int, facts: Mapping[str, Any]
) -> Iterator[Ratio]:
    sides = {name: lambda block=block: task.search(block) for name, block in blocks.items()}
    times = alternate({"flat": lambda: flat.search(task), **sides}, rounds)
    expected = flat.search(task)
    for name, block in blocks.items():
        same = agreement(task.search(block), expected)
        wanted = ">= 3" if block.codes is not None else ""
        label = f"faiss flat + grouping over exact search ({name}), {task.name}"
        yield ratio(label, times["flat"], times[name], wanted, agreement=same, **facts)


def _against_exact(task: Task, index: IvfIndex, blocks: Mapping[str, Block], rounds: int) -> Iterator[Ratio]:
    sides = {name: lambda block=block: task.search(block) for name, block in blocks.items()}
    ivf = {"ivf": lambda: index.search(task.queries, task.groups, task.k, list(blocks.values())[:1])}
    times = alternate({**sides, **ivf}, rounds)
    wanted = ">= 20" if task.k == DEPTHS[0] else ""
    for name in blocks:
        yield ratio(f"exact search ({name}) over ivf_sq8, {task.name}", times[name], times["ivf"], wanted)


def _recall(data: Collection, index: IvfIndex, coded: Block, k: int, facts: Mapping[str, Any]) -> Ratio:
    groups = np.arange(len(data.queries))
    exact = search_exact([coded], data.queries, groups, k)
    found = index.search(data.queries, groups, k, [coded])
    recall = float(np.mean([np.isin(e, f).mean() for e, f in zip(exact.images, found.images, strict=True)]))
    return Ratio(f"ivf_sq8 image recall@{k}", recall, ">= 0.98" if k == DEPTHS[0] else "", facts=facts)


class Flat:
    """The usual way: FAISS flat search, and grouping in Python."""

    def __init__(self, data: Collection) -> None:
        self.index = faiss.IndexFlatIP(data.vectors.shape[1])
        self.index.add(data.vectors)
        self.images = data.images.tolist()

    def search(self, task: Task) -> Found:
        faiss.omp_set_num_threads(torch.get_num_threads())
        return grouped_in_python(self.index, self.images, task.queries, task.groups.tolist(), task.k)


def grouped_in_python(
    flat: faiss.IndexFlatIP, images: Sequence[int], queries: NDArray[np.float32], groups: Sequence[int], k: int
) -> Found:
    """The usual way: fetch rows, keep the best of each image in a dict, fetch twice as many where that was too few."""
    fetch = 2 * k
    while True:
        scores, rows = flat.search(queries, min(fetch, flat.ntotal))
        best: list[dict[int, tuple[float, int, int]]] = [{} for _ in range(groups[-1] + 1)]
        enough = fetch >= flat.ntotal
        fewest = k
        for query_row, (row_scores, row_numbers) in enumerate(zip(scores.tolist(), rows.tolist(), strict=True)):
            of_query, own = best[groups[query_row]], set()
            for score, row in zip(row_scores, row_numbers, strict=True):
                image = images[row]
                own.add(image)
                if image not in of_query or score > of_query[image][0]:
                    of_query[image] = (score, row, query_row)
            fewest = min(fewest, len(own))
        if enough or fewest >= k:
            ranked = [sorted(((i, *found) for i, found in b.items()), key=lambda hit: -hit[1])[:k] for b in best]
            return ranked
        fetch *= 2


def agreement(hits: GroupedHits, expected: Found) -> float:
    """Share of places whose score is the same within 1e-5, and whose image is (or ties with) the expected one."""
    good = total = 0
    for query, hit_list in enumerate(expected):
        for place, (image, score, _, _) in enumerate(hit_list):
            close = abs(float(hits.scores[query, place]) - score) <= 1e-5
            elsewhere = np.flatnonzero(hits.images[query] == image)
            tied = len(elsewhere) == 0 or abs(float(hits.scores[query, elsewhere[0]]) - score) <= 1e-5
            good += close and tied
            total += 1
    return good / total
