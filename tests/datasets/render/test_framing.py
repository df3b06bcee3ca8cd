from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from objemb.datasets.render.framing import MIN_SIDE, frame_alone
from objemb.datasets.render.pasting import Card, card_of, warp


def card(width: int, height: int, opaque: bool = True) -> Card:
    picture = Image.new("RGBA", (width, height), (9, 9, 9, 255))
    if not opaque:
        picture.putpixel((0, 0), (9, 9, 9, 0))
    return card_of(picture)


def test_a_frame_with_margins_holds_the_whole_picture() -> None:
    for seed in range(20):
        canvas, quad = frame_alone(np.random.default_rng(seed), card(60, 90, opaque=False), 240)
        assert canvas.dtype == np.float32
        assert canvas.shape[0] == 3
        assert canvas.shape[1] == 240
        assert quad.min() > -1
        assert (quad.max(0) < np.array([canvas.shape[2], 240]) + 1).all()
        longer = np.ptp(quad[:, 1])
        assert 240 / 1.25 < longer <= 241


def test_rectangles_mostly_fill_the_frame() -> None:
    filled = 0
    for seed in range(60):
        canvas, quad = frame_alone(np.random.default_rng(seed), card(90, 60), 240)
        height, width = canvas.shape[1:]
        filled += bool(warp(card(90, 60), quad, (height, width)).mask((height, width)).all())
        assert width == 240
        assert height == pytest.approx(160, abs=55)
    assert 30 <= filled <= 54


@pytest.mark.parametrize(("width", "height"), [(400, 4), (4, 400)])
def test_no_photo_is_a_line(width: int, height: int) -> None:
    for seed in range(8):
        canvas, quad = frame_alone(np.random.default_rng(seed), card(width, height), 200)
        assert max(canvas.shape[1:]) == 200
        assert min(canvas.shape[1:]) >= MIN_SIDE
        assert np.isfinite(quad).all()
        centre = np.array([canvas.shape[2], canvas.shape[1]]) / 2
        assert (np.abs(quad.mean(0) - centre) < 0.15 * np.array([200, 200])).all()
