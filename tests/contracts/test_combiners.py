"""Every combiner of views keeps to the contract of its kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from objemb import registry
from objemb.search.combiners.base import Combiner, unit
from objemb.types import Float32Array
from tests.contracts.made import build, every

DIM = 12


def rows(count: int, seed: int) -> Float32Array:
    return unit(np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32))


@every("search.combiners")
class TestCombiners:
    @pytest.mark.parametrize("unlike", [0, 2])
    @pytest.mark.parametrize("others", [0, 1, 50])
    @pytest.mark.parametrize("views", [1, 3])
    def test_views_in_unit_vectors_out(self, name: str, tmp_path: Path, views: int, others: int, unlike: int) -> None:
        combiner: Combiner = build("search.combiners", name, tmp_path)
        given, counter, sample = rows(views, 0), rows(unlike, 1), rows(others, 2)
        before = [given.copy(), counter.copy(), sample.copy()]
        found = combiner.combine(given, counter, lambda: sample)
        assert found.dtype == np.float32
        assert found.ndim == 2
        assert found.shape[1] == DIM
        assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)
        assert np.array_equal(found, combiner.combine(given, counter, lambda: sample))
        assert all(np.array_equal(a, b) for a, b in zip(before, (given, counter, sample), strict=True))
        if combiner.keeps_views:
            assert np.array_equal(found, given)
        # a view is closer to what is searched for than the counter-examples are, or they are left to the margin
        if unlike and combiner.margin is None:
            assert (found @ given.T).max() > (found @ counter.T).max()

    def test_one_view_alone_is_searched_for_by_itself_or_by_its_direction(self, name: str, tmp_path: Path) -> None:
        combiner: Combiner = build("search.combiners", name, tmp_path)
        view = rows(1, 0)
        found = combiner.combine(view, rows(0, 1), lambda: rows(0, 2))
        assert found == pytest.approx(view, abs=1e-6)

    def test_what_it_declares(self, name: str, tmp_path: Path) -> None:
        combiner: Combiner = build("search.combiners", name, tmp_path)
        assert combiner.margin is None or 0 <= combiner.margin <= 2
        assert combiner.unboxed in (None, "whole", "detector", "both")
        assert (combiner.scale is None) == combiner.keeps_views

    def test_wrong_settings(self, name: str) -> None:
        key = next(iter(registry.arguments(registry.load("search.combiners", name))))
        with pytest.raises((TypeError, ValueError), match=f"{key}: expected"):
            registry.build(Combiner, {"name": name, key: -1})
