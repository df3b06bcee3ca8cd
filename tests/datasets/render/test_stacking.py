from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from objemb.datasets.render.pasting import Patch, card_of, place, warp
from objemb.datasets.render.stacking import cover, keep_visible, large_behind

SIZE = (60, 60)


def square(x: float, y: float, side: float = 20) -> Patch:
    card = card_of(Image.new("RGBA", (32, 32), (9, 9, 9, 255)))
    return warp(card, place((x, y), (side, side), 0, np.zeros((4, 2))), SIZE)


def test_the_front_hides_the_back() -> None:
    front, back = keep_visible([square(20, 20), square(30, 20)], SIZE, 0.3)
    assert (front.number, back.number) == (0, 1)
    assert front.visibility == pytest.approx(1, abs=0.01)
    assert back.visibility == pytest.approx(0.5, abs=0.02)
    assert not (front.mask & back.mask).any()


def test_what_would_hide_the_others_goes_behind_them() -> None:
    """Of 60 by 60 pixels, squares of 34 cover less than a third (1156 of 1200), those of 36 more."""
    sides = (50, 10, 36, 34, 20)
    assert large_behind([square(30, 30, s) for s in sides], SIZE) == [1, 3, 4, 2, 0]
    assert large_behind([square(30, 30, 10), square(90, 30, 50)], SIZE) == [0, 1]
    assert large_behind([], SIZE) == []


def test_what_is_hidden_too_much_is_left_out_and_hides_nothing() -> None:
    kept = keep_visible([square(20, 20), square(24, 20), square(40, 20)], SIZE, 0.5)
    assert [k.number for k in kept] == [0, 2]
    assert kept[1].visibility == pytest.approx(1, abs=0.01)


def test_occluders_must_leave_enough() -> None:
    patches = [square(20, 20)]
    seen = keep_visible(patches, SIZE, 0.5)
    left = cover(seen, patches, square(32, 20), 0.5)
    assert left is not None
    assert left[0].visibility == pytest.approx(0.6, abs=0.02)
    assert cover(seen, patches, square(28, 20), 0.5) is None
    assert cover(seen, patches, square(20, 20), 0.5) is None
    assert cover([], [], square(20, 20), 0.5) == []


def test_nothing_is_a_normal_case() -> None:
    assert keep_visible([], SIZE, 0.5) == []
    assert keep_visible([square(-50, -50)], SIZE, 0.5) == []
