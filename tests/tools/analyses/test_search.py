from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from objemb.cli.programs.analyses.features import FeatureView
from objemb.cli.programs.analyses.search import LayerSearch, summands, summed
from objemb.cli.programs.analyses.settings import BEST, BOXES, ONE, SUM, WHOLE, Setting, attention_settings
from objemb.datasets.evaluation_set import SetEntry
from objemb.evaluation.metrics import average_precision
from objemb.evaluation.retrieval_task import RetrievalTask
from objemb.layers.whitening import Whitening
from objemb.ops.tensors import l2
from objemb.structures import ImageRows
from objemb.types import Float32Array
from tests.evaluation.reference import slow_ranks

RANDOM = torch.Generator().manual_seed(0)
NAMES = "abcde"


def unit(count: int, channels: int = 6) -> torch.Tensor:
    return l2(torch.rand(count, channels, generator=RANDOM))


def task(items: int = 20, queries: int = 8) -> RetrievalTask:
    database = tuple(SetEntry(f"{n}.jpg", (NAMES[n % 5], NAMES[n % 3])) for n in range(items))
    asked = tuple(SetEntry(f"{n}.jpg", (NAMES[n % 5],), (0, 0, 1, 1)) for n in range(queries))
    return RetrievalTask("image", database, asked)


def rows_of(counts: list[int], vectors: torch.Tensor | None = None) -> ImageRows:
    """So many rows of each image, each with a box of its own."""
    items = np.repeat(np.arange(len(counts)), counts)
    boxes = np.arange(4 * len(items), dtype=np.float32).reshape(-1, 4)
    vectors = unit(len(items)) if vectors is None else vectors
    return ImageRows(tuple(map(str, range(len(counts)))), vectors.numpy(), items, boxes)


def test_the_sum_leaves_the_own_box_out() -> None:
    rows = rows_of([3, 1, 0, 2])
    assert summands(rows).tolist() == [False, True, True, True, False, True]
    sums = summed(rows)
    assert sums.items.tolist() == [0, 1, 3]
    assert sums.boxes.tolist() == rows.boxes[[0, 3, 4]].tolist()
    vectors = torch.from_numpy(rows.vectors)
    expected = torch.stack([vectors[1:3].sum(dim=0), vectors[3], vectors[5]])
    assert torch.allclose(torch.from_numpy(sums.vectors), l2(expected), atol=1e-6)
    assert len(summed(rows_of([0, 0])).items) == 0


def slow_precision(database: ImageRows, query: Float32Array, positives: set[int], junk: set[int]) -> float:
    best = {
        item: max(float(v @ query) for v in database.vectors[database.items == item]) for item in set(database.items)
    }
    ranking = sorted(best, key=lambda item: (-best[item], item))
    return average_precision(slow_ranks(ranking, positives, junk), len(positives))


@pytest.mark.parametrize("matching", [ONE, BEST, SUM])
@pytest.mark.parametrize("whitened", [False, True])
def test_precisions_are_those_of_a_slow_search(matching: str, whitened: bool) -> None:
    """The slow way: a whitening of its own for each dimension, complete rankings, one query after the other."""
    of = task()
    stored = rows_of([1 if matching == ONE else n % 4 for n in range(20)])
    asked = rows_of([1, 1, 1, 1, 1, 0, 1, 1])
    both = ImageRows(
        stored.images + asked.images,
        np.concatenate([stored.vectors, asked.vectors]),
        np.concatenate([stored.items, asked.items + 20]),
        np.concatenate([stored.boxes, asked.boxes]),
    )
    view, whole = FeatureView("conv3_1", BOXES, "max"), FeatureView("conv3_1", WHOLE, "max")
    sample = unit(50)
    samples = {view: rows_of([5] * 10, sample)} if whitened else {}
    search = LayerSearch({view: both, whole: both}, samples, of)
    setting = Setting("boxes", BOXES, "max", matching)
    assert search.rank("conv3_1", setting) == 6
    dims = (3, 6) if whitened else (6,)
    for dim, precisions in zip(dims, search.precisions("conv3_1", setting, dims), strict=True):
        # what is summed up are the rows behind the first of an item: of 10 items with 5 rows each, 40
        fitted = sample.unflatten(0, (10, 5))[:, 1:].flatten(0, 1) if matching == SUM else sample
        space = Whitening.fit(fitted, dim, fitted_on="") if whitened else l2
        database, queries = (
            ImageRows(r.images, space(torch.from_numpy(r.vectors)).numpy(), r.items, r.boxes) for r in (stored, asked)
        )
        if matching == SUM:
            database = summed(database)
        for number, relevant in enumerate(of.relevance):
            rows = queries.vectors[queries.items == number]
            positives, junk = set(relevant.positives.tolist()), set(relevant.junk.tolist())
            expected = slow_precision(database, rows[0], positives, junk) if len(rows) else math.nan
            assert precisions[number] == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_a_whitening_without_variance_says_which() -> None:
    view = FeatureView("conv2_1", WHOLE, "mean")
    sample = {view: rows_of([3], torch.ones(3, 6))}
    with pytest.raises(ValueError, match="whitening of whole image, conv2_1, mean: vectors: expected some that differ"):
        LayerSearch({view: rows_of([1] * 28)}, sample, task()).rank("conv2_1", Setting("MAC", WHOLE, "mean"))


def test_like_is_compared_with_like() -> None:
    settings = attention_settings("gem", (BOXES,))
    assert [(setting.kind, setting.matching) for setting in settings] == [(WHOLE, ONE), (BOXES, BEST), (BOXES, SUM)]
    assert {setting.pooling for setting in settings} == {"gem"}
