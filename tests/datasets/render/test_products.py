from __future__ import annotations

import numpy as np
import pytest

from objemb.datasets.render.marks import EMBLEMS
from objemb.datasets.render.patterns import PATTERNS
from objemb.datasets.render.products import EMBLEM_STEP, draw_product, make_family
from objemb.datasets.render.silhouettes import SILHOUETTES

FAMILIES = [make_family(0, "test", n) for n in range(40)]


def pixels(family, variant: int, side: int = 96) -> np.ndarray:
    return np.asarray(draw_product(family, variant, side)).astype(int)


def test_all_shapes_and_patterns_come_up() -> None:
    assert {f.silhouette for f in FAMILIES} == set(SILHOUETTES)
    assert len(SILHOUETTES) == 8
    assert {f.pattern for f in FAMILIES} == set(PATTERNS)


def test_a_product_fills_its_picture() -> None:
    for family in FAMILIES[:12]:
        picture = draw_product(family, 0, 96)
        assert max(picture.size) == 96
        alpha = np.asarray(picture.getchannel("A"))
        rows, columns = np.flatnonzero((alpha > 127).any(1)), np.flatnonzero((alpha > 127).any(0))
        assert (rows[0], rows[-1]) == (0, alpha.shape[0] - 1)
        assert columns[0] <= 1
        assert columns[-1] >= alpha.shape[1] - 2


def test_the_same_keys_give_the_same_product() -> None:
    assert (pixels(make_family(3, "val", 5), 1) == pixels(make_family(3, "val", 5), 1)).all()
    assert make_family(3, "val", 5) != make_family(3, "test", 5)


def test_variants_share_looks_and_can_be_told_apart() -> None:
    """Two variants differ visibly on a fair part of the surface, yet less than two families do."""
    within, between = [], []
    for number, family in enumerate(FAMILIES[:16]):
        one, other = pixels(family, 0), pixels(family, 1)
        assert one.shape == other.shape
        assert (one[..., 3] == other[..., 3]).all()
        visibly = np.abs(one - other)[..., :3].max(2) > 60
        assert visibly.mean() > 0.03
        within.append(visibly.mean())
        stranger = pixels(FAMILIES[number + 1], 0)
        h, w = (min(a, b) for a, b in zip(one.shape[:2], stranger.shape[:2], strict=True))
        between.append((np.abs(one[:h, :w] - stranger[:h, :w])[..., :3].max(2) > 60).mean())
    assert np.mean(within) < 0.5 * np.mean(between)


def test_variants_have_different_emblems() -> None:
    assert len({(EMBLEM_STEP * v) % len(EMBLEMS) for v in range(len(EMBLEMS))}) == len(EMBLEMS)


@pytest.mark.parametrize("side", [8, 33, 400])
def test_any_size_can_be_drawn(side: int) -> None:
    for family in FAMILIES[:10]:
        assert max(draw_product(family, 2, side).size) == side
