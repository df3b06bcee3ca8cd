"""Exact search compared with FAISS flat search grouped in Python, and approximate search compared with exact search."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import faiss
import numpy as np
import torch

from objemb.cli.programs.timing import Ratio, alternate, ratio
from objemb.index.engines._ivf import IvfStructure, default_probes
from objemb.index.engines.exact import ENCODE_AFTER, ExactSearch, search_exact
from objemb.index.engines.ivf_sq8 import IvfSq8
from objemb.index.storage.blocks import VectorBlock
from objemb.ops.int8_codes import encode
from objemb.ops.scored_pairs import GroupedHits
from objemb.types import Float32Array, Int64Array
from tools.benchmarks.clusters import Collection, clustered_regions

FULL = {"images": 100_000, "regions": 10, "dim": 128, "queries": 1000, "rounds": 7}
SMALL = {"images": 300, "regions": 4, "dim": 16, "queries": 130, "rounds": 2}
#: Names of the cases with their queries, rows per query, and how many such batches are searched one after another.
CASES = {"1 query of 1 box": (1, 1, 10), "1 query of 5 boxes": (1, 5, 10), "64 queries of 1 box": (64, 1, 2)}
#: Images per query.
DEPTHS = (10, 100)

#: The hits of each query: image, score, row, query row.
Hits = list[list[tuple[int, float, int, int]]]
Search = Callable[[Float32Array, Int64Array, int], Any]


def run(sizes: Mapping[str, int], seed: int) -> Iterator[Ratio]:
    """All ratios of search."""
    data = clustered_regions(sizes["images"], sizes["regions"], sizes["dim"], sizes["queries"], seed)
    start = time.perf_counter()
    plain = VectorBlock(data.vectors, data.images)
    coded = replace(plain, codes=encode(plain.vectors))
    encoding = {"encode_seconds": time.perf_counter() - start}
    blocks = {"8-bit codes": coded, "no codes": plain}
    flat = Flat(data)
    searches: dict[str, Search] = {"as an index": partial(_with_blocks, ExactSearch().search, [plain])}
    searches |= {name: partial(_with_blocks, _search_exact, [block]) for name, block in blocks.items()}
    for case in search_cases(data):
        yield from _against_flat(case, flat, searches, sizes["rounds"], encoding)
    start = time.perf_counter()
    index = IvfSq8(seed=seed).build([coded])
    facts: dict[str, Any] = {"build_seconds": time.perf_counter() - start}
    facts |= {"lists": index.lists, "probes": {f"k={k}": default_probes(index.lists, index.covered, k) for k in DEPTHS}}
    for k in DEPTHS:
        yield _recall(data, index, coded, k, facts)
    for case in search_cases(data):
        yield from _against_exact(case, index, blocks, sizes["rounds"])


@dataclass(frozen=True, eq=False)
class SearchCase:
    """Batches of queries that are searched one after another, and the number of images to return for each query."""

    name: str
    batches: Sequence[Float32Array]
    groups: Int64Array
    k: int

    def each(self, search: Search) -> list[Any]:
        """The result of ``search(queries, groups, k)`` for each batch."""
        return [search(queries, self.groups, self.k) for queries in self.batches]

    def exactly(self, block: VectorBlock) -> list[GroupedHits]:
        """Exact search over one block."""
        return self.each(lambda queries, groups, k: search_exact([block], queries, groups, k))


def search_cases(data: Collection) -> Iterator[SearchCase]:
    """All cases at all depths."""
    for name, (count, rows, turns) in CASES.items():
        batches = [data.queries[start : start + count * rows] for start in range(0, turns * count * rows, count * rows)]
        for k in DEPTHS:
            yield SearchCase(f"{name}, k={k}", batches, np.repeat(np.arange(count), rows), k)


def _against_flat(
    case: SearchCase, flat: Flat, searches: Mapping[str, Search], rounds: int, facts: Mapping[str, Any]
) -> Iterator[Ratio]:
    sides = {name: partial(case.each, search) for name, search in searches.items()}
    for _ in range(ENCODE_AFTER):  # what an index learns of its processor
        case.each(searches["as an index"])
    times = alternate({"flat": partial(case.each, flat.search), **sides}, rounds)
    expected = case.each(flat.search)
    for name, search in searches.items():
        same = min(agreement(*pair) for pair in zip(case.each(search), expected, strict=True))
        wanted = ">= 3" if name == "as an index" else ""
        label = f"faiss flat + grouping over exact search ({name}), {case.name}"
        yield ratio(label, times["flat"], times[name], wanted, agreement=same, searches=len(case.batches), **facts)


def _with_blocks(
    search: Callable[..., GroupedHits], blocks: Sequence[VectorBlock], queries: Float32Array, groups: Int64Array, k: int
) -> GroupedHits:
    return search(queries, groups, k, blocks)


def _search_exact(queries: Float32Array, groups: Int64Array, k: int, blocks: Sequence[VectorBlock]) -> GroupedHits:
    return search_exact(blocks, queries, groups, k)


def _against_exact(
    case: SearchCase, index: IvfStructure, blocks: Mapping[str, VectorBlock], rounds: int
) -> Iterator[Ratio]:
    stored = [next(iter(blocks.values()))]
    sides = {name: lambda block=block: case.exactly(block) for name, block in blocks.items()}
    approximate = {"ivf": lambda: case.each(lambda q, groups, k: index.search(q, groups, k, stored))}
    times = alternate({**sides, **approximate}, rounds)
    wanted = ">= 20" if case.k == DEPTHS[0] else ""
    for name in blocks:
        label = f"exact search ({name}) over ivf_sq8, {case.name}"
        yield ratio(label, times[name], times["ivf"], wanted, searches=len(case.batches))


def _recall(data: Collection, index: IvfStructure, coded: VectorBlock, k: int, facts: Mapping[str, Any]) -> Ratio:
    groups = np.arange(len(data.queries))
    exact = search_exact([coded], data.queries, groups, k)
    approximate = index.search(data.queries, groups, k, [coded])
    recall = float(np.mean([np.isin(e, a).mean() for e, a in zip(exact.images, approximate.images, strict=True)]))
    return Ratio(f"ivf_sq8 image recall@{k}", recall, ">= 0.98" if k == DEPTHS[0] else "", facts=facts)


class Flat:
    """The usual approach: FAISS flat search, and grouping in Python."""

    def __init__(self, data: Collection) -> None:
        self.index = faiss.IndexFlatIP(data.vectors.shape[1])
        self.index.add(data.vectors)
        self.images = data.images.tolist()

    def search(self, queries: Float32Array, groups: Int64Array, k: int) -> Hits:
        """The best images of each query."""
        faiss.omp_set_num_threads(torch.get_num_threads())
        return grouped_in_python(self.index, self.images, queries, groups.tolist(), k)


def grouped_in_python(
    flat: faiss.IndexFlatIP, images: Sequence[int], queries: Float32Array, groups: Sequence[int], k: int
) -> Hits:
    """Fetch rows, keep the best of each image in a dict, and fetch twice as many rows if that gives too few images."""
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
            ranked = [sorted(((i, *values) for i, values in b.items()), key=lambda hit: -hit[1])[:k] for b in best]
            return ranked
        fetch *= 2


def agreement(hits: GroupedHits, expected: Hits) -> float:
    """Share of ranks with the expected score (within 1e-5) and the expected image, or one that ties with it."""
    good = total = 0
    for query, hit_list in enumerate(expected):
        for place, (image, score, _, _) in enumerate(hit_list):
            close = abs(float(hits.scores[query, place]) - score) <= 1e-5
            elsewhere = np.flatnonzero(hits.images[query] == image)
            tied = len(elsewhere) == 0 or abs(float(hits.scores[query, elsewhere[0]]) - score) <= 1e-5
            good += close and tied
            total += 1
    return good / total
