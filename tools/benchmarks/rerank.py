"""Re-ranked search compared with plain search of the same index, at several sizes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from objemb.cli.programs.timing import Ratio, alternate, ratio
from objemb.index.searcher import APPROXIMATE_ROWS
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.store import Index
from objemb.rerank._database import IndexDatabase
from objemb.rerank.base import Reranker, search_and_rerank
from objemb.rerank.query_expansion import QueryExpansion
from objemb.rerank.region_match import RegionMatch
from objemb.structures import RegionDescriptors, Regions, SearchResult
from tools.benchmarks.clusters import Collection, clustered_regions

FULL = {"images": (100, 10_000, 100_000), "regions": 10, "dim": 128, "queries": 50, "rounds": 7}
SMALL = {"images": (30, 300), "regions": 4, "dim": 16, "queries": 10, "rounds": 2}
#: Photos in an answer, and boxes in a query.
K, BOXES = 10, (1, 5)
#: What is compared with the plain search, and the hits that it is given.
STEPS: Mapping[str, Callable[[], Reranker]] = {
    "query_expansion": QueryExpansion,
    "region_match,top=10": lambda: RegionMatch(top=10),
    "region_match": RegionMatch,
}
#: The largest time of a re-ranked search that is wanted, as a multiple of that of the plain one.
WANTED = "<= 1.5"


def run(sizes: Mapping[str, Any], seed: int) -> Iterator[Ratio]:
    """All ratios of re-ranking."""
    for images in sizes["images"]:
        data = clustered_regions(images, sizes["regions"], sizes["dim"], max(BOXES) * sizes["queries"], seed)
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            index = index_of(data, Path(folder) / "index")
            facts = {"indexing_seconds": time.perf_counter() - start, "segments": index.info()["segments"]}
            yield from _of_index(index, data, sizes["rounds"], facts)


def index_of(data: Collection, folder: Path) -> Index:
    """An index of a collection, with a structure for approximate search where a search would use it."""
    index = Index.create(folder, schema=UnitVectors(data.vectors.shape[1]), fingerprint="random")
    corners = np.random.default_rng(0).uniform(0, 400, (len(data.vectors), 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + 80], axis=1)
    regions = len(data.vectors) // (int(data.images[-1]) + 1)
    with index.writer() as writer:
        for first in range(0, len(boxes), regions):
            rows = slice(first, first + regions)
            name, metadata = f"photos/{first // regions:08d}.jpg", {"price": first % 100}
            writer.add(RegionDescriptors(name, Regions(boxes[rows], (480, 480)), data.vectors[rows], metadata))
    if len(boxes) >= APPROXIMATE_ROWS:
        index.build_structure()
    return index


def reranked(index: Index, query: RegionDescriptors, steps: Sequence[Reranker], exact: bool) -> SearchResult:
    """The answer of :meth:`objemb.Retrieval.search`, without the description of the query."""
    search = search_and_rerank([query], IndexDatabase(index, exact=exact), steps, K)
    (result,) = search.results
    return SearchResult(result.query_image, result.query_boxes, tuple(index.named(result.hits[:K])), result.scale)


def _of_index(index: Index, data: Collection, rounds: int, facts: Mapping[str, Any]) -> Iterator[Ratio]:
    approximate = bool(index.info()["approximate"])
    for count in BOXES:
        queries = _queries(data.queries, count)
        for exact in (False, True) if approximate else (True,):
            sides: dict[str, Callable[[], object]] = {"plain": partial(_searched, index, queries, exact)}
            sides |= {name: partial(_reranked, index, queries, exact, step()) for name, step in STEPS.items()}
            times = alternate(sides, rounds)
            of = f"{len(data.vectors):,} rows, {count} box{'es' * (count > 1)}, {'exact' if exact else 'approximate'}"
            wanted = "" if exact and approximate else WANTED  # as a search is without being told
            for name in STEPS:
                label = f"{name} over plain search, {of}"
                yield ratio(label, times[name], times["plain"], wanted, searches=len(queries), **facts)


def _searched(index: Index, queries: Sequence[RegionDescriptors], exact: bool) -> None:
    for query in queries:
        index.search(query, K, exact=exact)


def _reranked(index: Index, queries: Sequence[RegionDescriptors], exact: bool, step: Reranker) -> None:
    for query in queries:
        reranked(index, query, [step], exact)


def _queries(vectors: Any, count: int) -> list[RegionDescriptors]:
    """Queries of so many boxes each."""
    boxes = np.tile(np.array([0, 0, 100, 100], np.float32), (count, 1))
    return [
        RegionDescriptors("query", Regions(boxes, (480, 480)), vectors[first : first + count])
        for first in range(0, len(vectors) - count + 1, count)
    ][: max(1, len(vectors) // max(BOXES))]
