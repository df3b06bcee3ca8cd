"""Engines for approximate search: image recall, size, time to build, and times beside exact search and bare FAISS."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import faiss
import numpy as np

from objemb.cli.programs.timing import Ratio, alternate, ratio
from objemb.index.engines._ivf import IvfEngine, IvfStructure, default_probes
from objemb.index.engines.exact import search_exact
from objemb.index.engines.ivf_pq import IvfPq
from objemb.index.engines.ivf_pq_fastscan import IvfPqFastscan
from objemb.index.engines.ivf_rabitq import IvfRabitq
from objemb.index.engines.ivf_sq8 import IvfSq8
from objemb.index.storage.blocks import VectorBlock
from objemb.ops.scored_pairs import GroupedHits
from objemb.types import Float32Array
from tools.benchmarks.clusters import clustered_regions
from tools.benchmarks.search import grouped_in_python

FULL = {"images": 20_000, "regions": 10, "dims": (128, 256), "queries": 500, "rounds": 5}
SMALL = {"images": 300, "regions": 4, "dims": (16,), "queries": 50, "rounds": 2}
#: Images per query, and queries that are timed one after another.
K, TIMED = 10, 50
ENGINES: Mapping[str, Callable[[], IvfEngine]] = {
    "ivf_sq8": IvfSq8,
    "ivf_pq": IvfPq,
    "ivf_pq_fastscan": IvfPqFastscan,
    "ivf_rabitq": IvfRabitq,
    "ivf_rabitq,bits=4": lambda: IvfRabitq(bits=4),
}


def run(sizes: Mapping[str, Any], seed: int) -> Iterator[Ratio]:
    """All ratios of all engines, for each length of vectors."""
    for dim in sizes["dims"]:
        yield from _of_dim(sizes, dim, seed)


def _of_dim(sizes: Mapping[str, Any], dim: int, seed: int) -> Iterator[Ratio]:
    data = clustered_regions(sizes["images"], sizes["regions"], dim, sizes["queries"], seed)
    block, images = VectorBlock(data.vectors, data.images), data.images.tolist()
    each, one = np.arange(len(data.queries)), np.zeros(1, np.int64)
    expected = search_exact([block], data.queries, each, K)
    sides: dict[str, Callable[[], object]] = {
        "exact": partial(_one_by_one, lambda query: search_exact([block], query, one, K), data.queries)
    }
    for name, engine in ENGINES.items():
        start = time.perf_counter()
        structure = engine().build([block])
        facts = {"build_seconds": time.perf_counter() - start, "lists": structure.lists}
        stored = _stored(structure)
        facts["bytes_a_row"] = len(stored) / len(block)
        recall = _recall(expected, structure.search(data.queries, each, K, [block]))
        yield Ratio(f"{name}, {dim} dimensions: image recall@{K}", recall, ">= 0.99", facts=facts)
        sides[name] = partial(_one_by_one, partial(_found, structure, block), data.queries)
        if name == "ivf_sq8":
            bare: Any = faiss.deserialize_index(np.frombuffer(stored, np.uint8))
            bare.nprobe = default_probes(structure.lists, len(block), K)
            sides["bare"] = partial(_one_by_one, partial(_bare, bare, images), data.queries)
    times = alternate(sides, sizes["rounds"])
    for name in ENGINES:
        for other, what in (("bare", "bare FAISS ivf_sq8, grouped in Python,"), ("exact", "exact search, no codes,")):
            yield ratio(f"{what} over {name}, {dim} dimensions", times[other], times[name], searches=TIMED)


def _stored(structure: IvfStructure) -> bytes:
    """The bytes of the one file of a structure."""
    file = io.BytesIO()
    structure.write(lambda _: file)  # type: ignore[arg-type,return-value]  # it returns a count, which is not used
    return file.getvalue()


def _found(structure: IvfStructure, block: VectorBlock, query: Float32Array) -> GroupedHits:
    return structure.search(query, np.zeros(1, np.int64), K, [block])


def _one_by_one(search: Callable[[Any], object], queries: Any) -> None:
    for number in range(min(TIMED, len(queries))):
        search(queries[number : number + 1])


def _bare(index: Any, images: list[int], query: Any) -> object:
    return grouped_in_python(index, images, query, [0], K)


def _recall(expected: GroupedHits, found: GroupedHits) -> float:
    """Share of the images of exact search that were found."""
    pairs = zip(expected.images, found.images, strict=True)
    return float(np.mean([np.isin(wanted, images).mean() for wanted, images in pairs]))
