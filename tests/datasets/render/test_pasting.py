from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from objemb.datasets.render.pasting import card_of, cast_shadow, homography, paste, place, to_pixels, to_planes, warp

NO_JITTER = np.zeros((4, 2))


def plain_card(width: int, height: int, colour: tuple[int, int, int] = (200, 100, 50)):
    return card_of(Image.new("RGBA", (width, height), (*colour, 255)))


def test_place_by_hand() -> None:
    quad = place((10, 20), (4, 2), math.pi / 2, NO_JITTER)
    np.testing.assert_allclose(quad, [(11, 18), (11, 22), (9, 22), (9, 18)], atol=1e-9)  # a quarter turn clockwise


def test_homography_maps_corners_to_corners() -> None:
    quad = np.array([(1.0, 2.0), (9.0, 1.0), (11.0, 8.0), (0.0, 7.0)])
    corners = np.array([(0.0, 0.0), (20.0, 0.0), (20.0, 10.0), (0.0, 10.0)])
    a, b, c, d, e, f, g, h = homography(quad, corners)
    x, y = quad.T
    scale = g * x + h * y + 1
    np.testing.assert_allclose(np.stack([a * x + b * y + c, d * x + e * y + f], 1) / scale[:, None], corners, atol=1e-9)


@pytest.mark.parametrize("size", [(20, 30), (100, 150), (700, 1050)])
def test_a_card_of_any_size_fills_exactly_its_quadrilateral(size: tuple[int, int]) -> None:
    patch = warp(plain_card(*size), place((30, 40), (20, 30), 0, NO_JITTER), (80, 80))
    mask = patch.mask((80, 80))
    expected = np.zeros((80, 80), dtype=bool)
    expected[25:55, 20:40] = True
    assert (mask == expected).all()
    assert patch.area == pytest.approx(600, rel=0.01)
    inner = patch.colour[:, 5:-5, 5:-5]
    np.testing.assert_allclose(inner, np.broadcast_to(np.array([200, 100, 50])[:, None, None], inner.shape), atol=1.5)


def test_a_card_turned_by_180_degrees_is_upside_down() -> None:
    picture = Image.new("RGBA", (40, 40), (255, 0, 0, 255))
    picture.paste((0, 0, 255, 255), (0, 20, 40, 40))
    patch = warp(card_of(picture), place((20, 20), (40, 40), math.pi, NO_JITTER), (40, 40))
    assert patch.colour[2, 5, 20] > 200
    assert patch.colour[0, 35, 20] > 200


def test_what_is_out_of_the_frame_is_cut_off_but_counted() -> None:
    patch = warp(plain_card(20, 20), place((0, 40), (20, 20), 0, NO_JITTER), (80, 80))
    assert patch.mask((80, 80)).sum() == 200
    assert patch.area == pytest.approx(400, rel=0.01)
    away = warp(plain_card(20, 20), place((-100, 40), (20, 20), 0, NO_JITTER), (80, 80))
    assert not away.mask((80, 80)).any()


def test_paste_blends_by_alpha() -> None:
    card = card_of(Image.new("RGBA", (32, 32), (100, 0, 0, 128)))
    canvas = np.full((3, 40, 40), 50, dtype=np.float32)
    paste(canvas, warp(card, place((20, 20), (32, 32), 0, NO_JITTER), (40, 40)))
    assert canvas[:, 20, 20] == pytest.approx([75, 25, 25], abs=1)
    assert canvas[:, 1, 1] == pytest.approx([50, 50, 50])


@pytest.mark.parametrize("offset", [(4, 6), (-200, 0), (0, 200), (-12, -12)])
def test_shadows_darken_and_may_fall_out_of_the_frame(offset: tuple[float, float]) -> None:
    canvas = np.full((3, 40, 40), 100, dtype=np.float32)
    patch = warp(plain_card(20, 20), place((20, 20), (20, 20), 0, NO_JITTER), (40, 40))
    cast_shadow(canvas, patch, offset, 3, 0.5)
    assert canvas.max() <= 100.01
    assert (canvas.min() < 60) == (abs(offset[0]) < 100 > abs(offset[1]))


def test_alpha_can_be_replaced() -> None:
    patch = warp(plain_card(20, 20), place((20, 20), (20, 20), 0, NO_JITTER), (40, 40))
    half = patch.with_alpha(np.full_like(patch.alpha, 0.5))
    assert half.alpha.max() == 0.5
    assert half.alpha[0, 0] == 0  # there is no colour out of the card
    assert half.colour[0].max() == pytest.approx(100, abs=1)


def test_planes_and_pixels_are_inverse() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert (to_pixels(to_planes(Image.fromarray(pixels))) == pixels).all()
