from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from objemb.cli.programs.analyses.features import LayerRows, View
from objemb.cli.programs.analyses.search import Searches, best_scores, ranked_precisions, summed
from objemb.cli.programs.analyses.settings import BEST, BOXES, ONE, SUM, WHOLE, Look, attention_looks
from objemb.datasets.evaluation_set import SetEntry
from objemb.evaluation.described import Rows
from objemb.evaluation.metrics import average_precision
from objemb.evaluation.ranks import rank_items
from objemb.evaluation.retrieval_task import RetrievalTask
from objemb.evaluation.scoring import listed_items, score
from objemb.layers.whitening import Whitening
from objemb.ops.normalize import l2
from tests.evaluation.reference import slow_ranks

RANDOM = torch.Generator().manual_seed(0)
NAMES = "abcde"


def unit(count: int, channels: int = 6) -> torch.Tensor:
    return l2(torch.rand(count, channels, generator=RANDOM))


def task(items: int = 20, queries: int = 8) -> RetrievalTask:
    database = tuple(SetEntry(f"{n}.jpg", (NAMES[n % 5], NAMES[n % 3])) for n in range(items))
    return RetrievalTask(
        "image", database, tuple(SetEntry(f"{n}.jpg", (NAMES[n % 5],), (0, 0, 1, 1)) for n in range(queries))
    )


def rows_of(counts: list[int]) -> LayerRows:
    return LayerRows(unit(sum(counts)), torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)))


def test_the_sum_leaves_the_own_box_out() -> None:
    rows = rows_of([3, 1, 0, 2])
    found = summed(rows)
    assert found.items.tolist() == [0, 1, 3]
    expected = [torch.as_tensor(rows.vectors)[1:3].sum(dim=0), rows.vectors[3], rows.vectors[5]]
    assert torch.allclose(torch.as_tensor(found.vectors), l2(torch.stack(expected)), atol=1e-6)
    assert len(summed(LayerRows(torch.zeros(0, 6), torch.zeros(0, dtype=torch.int64))).items) == 0


def test_the_best_of_the_rows_of_an_item(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, queries = rows_of([2, 0, 3]), LayerRows(unit(2), torch.tensor([0, 2]))
    expected = queries.vectors @ rows.vectors.T
    for step in (1 << 25, 5):
        monkeypatch.setattr("objemb.cli.programs.analyses.search.SCORES_AT_ONCE", step)
        found = best_scores(rows, queries, items=3, count=3)
        assert np.isnan(found[1]).all()
        assert np.isneginf(found[[0, 2], 1]).all()
        np.testing.assert_allclose(found[[0, 2], 0], expected[:, :2].amax(dim=1), rtol=1e-6)
        np.testing.assert_allclose(found[[0, 2], 2], expected[:, 2:].amax(dim=1), rtol=1e-6)


@pytest.mark.parametrize("matching", [ONE, BEST, SUM])
@pytest.mark.parametrize("whitened", [False, True])
def test_as_the_exact_search_of_an_evaluation(matching: str, whitened: bool) -> None:
    """The slow way: a whitening of its own for each dimension, complete rankings, one metric after the other."""
    of = task()
    counts = [1 if matching == ONE else 1 + n % 4 for n in range(20)]
    view, whole = View("conv3_1", BOXES, "max"), View("conv3_1", WHOLE, "max")
    stored, asked = rows_of(counts), LayerRows(unit(7), torch.tensor([0, 1, 2, 3, 4, 6, 7]))
    both = LayerRows(
        torch.cat([torch.as_tensor(stored.vectors), torch.as_tensor(asked.vectors)]),
        torch.cat([stored.items, asked.items + 20]),
    )
    sample = unit(50)
    samples = {view: LayerRows(sample, torch.arange(50) // 5)} if whitened else {}
    searches = Searches({view: both, whole: both}, samples, of)
    look = Look("boxes", BOXES, "max", matching)
    assert searches.rank("conv3_1", look) == 6
    dims = (3, 6) if whitened else (6,)
    for dim, precisions in zip(dims, searches.precisions("conv3_1", look, dims), strict=True):
        # what is summed up are the rows behind the first of an item: of 10 items with 5 rows each, 40
        fitted = sample.unflatten(0, (10, 5))[:, 1:].flatten(0, 1) if matching == SUM else sample
        space = Whitening.fit(fitted, dim, fitted_on="") if whitened else l2
        database, queries = (LayerRows(space(r.vectors), r.items) for r in (stored, asked))
        if matching == SUM:
            database = summed(database)
        rows = [Rows(r.vectors.numpy(), r.items.numpy(), np.zeros((len(r.items), 4))) for r in (database, queries)]
        expected = score(of, rank_items(*rows, listed_items(of)), set(asked.items.tolist()))
        found = [figures["average_precision"] for figures in expected.per_query]
        np.testing.assert_allclose(precisions, np.array(found, dtype=float), atol=1e-6)
        assert np.isnan(precisions[5])


def test_a_whitening_without_variance_says_which() -> None:
    view = View("conv2_1", WHOLE, "mean")
    sample = {view: LayerRows(torch.ones(3, 6), torch.zeros(3))}
    with pytest.raises(ValueError, match="whitening of whole image, conv2_1, mean: vectors: expected some that differ"):
        Searches({view: rows_of([1])}, sample, task()).rank("conv2_1", Look("MAC", WHOLE, "mean"))


def test_like_is_compared_with_like(tmp_path: Path) -> None:
    looks = attention_looks("gem", (BOXES,))
    assert [(look.kind, look.matching) for look in looks] == [(WHOLE, ONE), (BOXES, BEST), (BOXES, SUM)]
    assert {look.pooling for look in looks} == {"gem"}


def slow_precision(scores: np.ndarray, positives: np.ndarray, junk: np.ndarray) -> float:
    if np.isnan(scores).any():
        return math.nan
    ranking = [i for i in sorted(range(len(scores)), key=lambda i: -scores[i]) if np.isfinite(scores[i])]
    ranks = slow_ranks(ranking, np.flatnonzero(positives).tolist(), np.flatnonzero(junk).tolist())
    return average_precision(ranks, int((positives & ~junk).sum()))


def test_precisions_of_many_queries_at_once_as_one_after_the_other() -> None:
    random = np.random.default_rng(0)
    scores = random.integers(0, 6, (40, 12)).astype(np.float32)  # many ties
    scores[random.random(scores.shape) < 0.2] = -np.inf
    scores[7] = np.nan
    positives, junk = random.random(scores.shape) < 0.3, random.random(scores.shape) < 0.2
    positives[3] = False
    found = ranked_precisions(scores, positives, junk)
    expected = [slow_precision(*row) for row in zip(scores, positives, junk, strict=True)]
    assert np.isnan(found[[3, 7]]).all()
    np.testing.assert_allclose(found, expected)


def test_precisions_of_scores_by_hand() -> None:
    scores = np.array([[0.9, 0.8, 0.7, 0.6]], dtype=np.float32)
    positives, junk = np.array([[False, True, False, True]]), np.array([[True, False, False, False]])
    # without the junk the positives are at ranks 0 and 2
    assert ranked_precisions(scores, positives, junk) == pytest.approx([((1 + 1) + (1 / 2 + 2 / 3)) / 4])
    assert ranked_precisions(scores[:0], positives[:0], junk[:0]).shape == (0,)
    with pytest.raises(ValueError, match=r"junk: expected shape \(1, 4\), found \(1, 3\)"):
        ranked_precisions(scores, positives, junk[:, :3])
