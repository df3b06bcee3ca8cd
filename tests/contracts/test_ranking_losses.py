"""Every ranking loss keeps to the contract of its kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from objemb.losses.ranking.base import RankingBatch, RankingLoss
from objemb.ops.tensors import l2
from tests.contracts.made import build, every
from tests.losses.ranking.made import batch, made


@every("losses.ranking")
class TestRankingLosses:
    def test_a_scalar_with_finite_gradients(self, name: str, tmp_path: Path) -> None:
        loss: RankingLoss = build("losses.ranking", name, tmp_path)
        given = made()
        vectors = [getattr(given, key).requires_grad_() for key in ("queries", "positives", "negatives")]
        found = loss.loss(given)
        assert (found.ndim, found.dtype) == (0, torch.float32)
        assert found.item() > 0
        found.backward()
        assert all(v.grad is not None and torch.isfinite(v.grad).all() for v in vectors)
        assert any(v.grad.abs().max() > 0 for v in vectors)

    def test_half_precision_counts_in_single(self, name: str, tmp_path: Path) -> None:
        loss: RankingLoss = build("losses.ranking", name, tmp_path)
        given = made()
        half = replace(given, **{k: getattr(given, k).bfloat16() for k in ("queries", "positives", "negatives")})
        assert loss.loss(half).dtype == torch.float32

    def test_equal_vectors_have_a_finite_gradient(self, name: str, tmp_path: Path) -> None:
        loss: RankingLoss = build("losses.ranking", name, tmp_path)
        vectors = l2(torch.ones(1, 3)).requires_grad_()
        loss.loss(batch(vectors, vectors, vectors)).backward()
        assert torch.isfinite(vectors.grad).all()

    def test_nothing_is_a_zero_with_a_gradient(self, name: str, tmp_path: Path) -> None:
        loss: RankingLoss = build("losses.ranking", name, tmp_path)
        nothing = torch.zeros(0, 3, requires_grad=True)
        found = loss.loss(batch(nothing, nothing, nothing))
        found.backward()
        assert found.item() == 0

    def test_it_repeats_and_leaves_the_batch(self, name: str, tmp_path: Path) -> None:
        loss: RankingLoss = build("losses.ranking", name, tmp_path)
        given, before = made(), made()
        assert loss.loss(given).item() == loss.loss(given).item()
        for key in RankingBatch.__dataclass_fields__:
            assert torch.equal(getattr(given, key), getattr(before, key))
