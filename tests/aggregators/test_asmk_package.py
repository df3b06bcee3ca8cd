"""Agreement with the public package `asmk` (Tolias, Avrithis and Jegou's method by Jenicek), where it is installed."""

from __future__ import annotations

import numpy as np
import pytest

from objemb.structures import LocalFeatures, RegionFeatures, Regions
from tests.aggregators.test_asmk import learned, score

asmk = pytest.importorskip("asmk", reason="compares with the package asmk: pip install asmk")
IMAGES, QUERIES, FEATURES, WORDS, DIM = 25, 4, 30, 20, 32


def image(name: str, vectors: np.ndarray) -> RegionFeatures:
    features = LocalFeatures((9, 9), np.ones((len(vectors), 2), np.float32), vectors)
    return RegionFeatures.by_position(name, Regions.whole((9, 9)), features)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("idf", [True, False])
@pytest.mark.parametrize("assignments", [1, 5])
def test_the_scores_are_those_of_the_package(binary: bool, idf: bool, assignments: int) -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((WORDS, DIM)).astype(np.float32)
    indexed = rng.standard_normal((IMAGES, FEATURES, DIM)).astype(np.float32)
    asked = indexed[:QUERIES] + 0.3 * rng.standard_normal((QUERIES, FEATURES, DIM)).astype(np.float32)

    codebook = asmk.codebook.Codebook(asmk.index.initialize_index(gpu_id=None), size=WORDS)
    codebook.index(centres)
    kernel = asmk.kernel.ASMKKernel(codebook, binary=binary)
    inverted = asmk.inverted_file.IVF.initialize_empty(codebook_size=WORDS, use_idf=idf)
    numbers = np.repeat(np.arange(IMAGES), FEATURES)
    flat, words, ids = codebook.quantize(indexed.reshape(-1, DIM), numbers, multiple_assignment=1)
    inverted.add(*kernel.aggregate(flat, words, ids))

    aggregator = learned(centres, binary=binary, idf=idf, query_assignments=assignments, tau_inclusive=True)
    assert inverted.counts.all(), "the idf of words that no image has differ: 1 there, log(N) here"
    images = [image(str(n), vectors) for n, vectors in enumerate(indexed)]
    if aggregator.idf is not None:
        aggregator.idf.fit(aggregator.samples("idf", images), fitted_on="the database, as the package has it")
    rows = [aggregator.aggregate(one) for one in images]
    for vectors in asked:
        quantised = codebook.quantize(vectors, multiple_assignment=assignments)
        ranks, theirs = inverted.search(
            *kernel.aggregate_image(*quantised),
            similarity_func=lambda *given: kernel.similarity(*given, alpha=3.0, similarity_threshold=0.0),
            topk=IMAGES,
        )
        query = aggregator.aggregate_query(image("query", vectors))
        ours = [score(query, 0, rows[n], 0, aggregator) for n in ranks]
        np.testing.assert_allclose(ours, theirs, atol=1e-6, rtol=1e-5)
        assert max(ours) > 0.05
