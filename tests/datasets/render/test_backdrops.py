from __future__ import annotations

import numpy as np
from PIL import Image

from objemb.datasets.render.backdrops import make_backdrop, make_occluder, make_piece
from objemb.datasets.seeds import generator


def test_shelves_have_floors_within_the_scene() -> None:
    shelves = 0
    for number in range(20):
        backdrop = make_backdrop(generator(number), 64, 1.0)
        assert backdrop.canvas.shape == (3, 64, 64)
        assert backdrop.canvas.dtype == np.float32
        assert backdrop.canvas.min() >= 0
        assert backdrop.canvas.max() <= 255
        shelves += bool(backdrop.floors)
        assert all(0 < floor < 64 for floor in backdrop.floors)
    assert 4 <= shelves <= 16


def test_occluders_and_pieces_are_partly_transparent() -> None:
    for number in range(12):
        occluder = np.asarray(make_occluder(generator(number), 48))[..., 3]
        assert 0.05 < (occluder > 127).mean() < 0.95
        piece = make_piece(generator(number), Image.new("RGB", (50, 50), (1, 2, 3)))
        assert piece.mode == "RGBA"
        assert np.asarray(piece)[..., 3].max() == 255
