"""Searches in photos that a test draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from objemb.describers.base import Describer
from objemb.rerank._database import DenseDatabase
from objemb.rerank.base import Search
from objemb.structures import Photo, Regions


def blobs(seed: int, side: int = 160) -> torch.Tensor:
    """A picture with corners: uint8 ``(3, side, side)``."""
    rng = np.random.default_rng(seed)
    picture = np.full((3, side, side), 90, np.uint8)
    for _ in range(70):
        x, y, size = (*rng.integers(0, side, 2).tolist(), int(rng.integers(4, 18)))
        picture[:, y : y + size, x : x + size] = rng.integers(0, 255, (3, 1, 1))
    return torch.from_numpy(picture)


def photo(pixels: torch.Tensor, id: str) -> Photo:
    return Photo(id, pixels, (pixels.shape[1], pixels.shape[2]))


def searched(describer: Describer, query: Photo, box: Sequence[float], photos: Sequence[Photo]) -> Search:
    """A search for a box in photos, as a describer sees them."""
    database = DenseDatabase.of(describer.describe(photos), describer.dim, {p.id: p for p in photos}.__getitem__)
    (asked,) = describer.describe([query], [Regions(torch.tensor([[float(v) for v in box]]), query.size)])
    return Search((asked,), tuple(database.search([asked], len(photos))), database, describer, [query].__getitem__)
