from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from objemb.datasets.render.blending import BLENDS, join, trim
from objemb.datasets.render.pasting import card_of, place, warp


def pasted(blend: str) -> tuple[np.ndarray, np.ndarray]:
    """Canvas and alpha of a white disc on black."""
    disc = Image.new("RGBA", (64, 64), (255, 255, 255, 0))
    y, x = np.mgrid[:64, :64]
    disc.putalpha(Image.fromarray((((x - 32) ** 2 + (y - 32) ** 2 < 900) * 255).astype(np.uint8)))
    patch = trim(warp(card_of(disc), place((32, 32), (50, 50), 0.1, np.zeros((4, 2))), (64, 64)), blend, 2.0)
    canvas = np.zeros((3, 64, 64), dtype=np.float32)
    join(canvas, patch, blend, 2.0)
    return canvas, patch.alpha


@pytest.mark.parametrize("blend", BLENDS)
def test_only_the_seam_differs(blend: str) -> None:
    canvas, _ = pasted(blend)
    assert canvas[:, 32, 32] == pytest.approx([255] * 3, abs=1)
    assert canvas[:, 2, 2] == pytest.approx([0] * 3, abs=1)


def test_hard_edges_are_hard_and_the_others_are_not() -> None:
    between = {blend: int(((pasted(blend)[0][0] > 20) & (pasted(blend)[0][0] < 235)).sum()) for blend in BLENDS}
    assert between["hard"] == 0
    assert between["soft"] < between["feather"]
    assert between["soft"] < between["blur"]


def test_feathering_shows_nothing_that_was_transparent() -> None:
    assert (pasted("feather")[1] <= pasted("soft")[1] + 1e-6).all()
