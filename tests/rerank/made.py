"""Small databases and queries, region n of an image at the box (10 n, 0, 10 n + 10, 10)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from objemb.rerank._database import DenseDatabase
from objemb.rerank.base import Search
from objemb.structures import RegionDescriptors, Regions

Rows = Sequence[Sequence[float]]


def described(image: str, rows: Rows, dim: int) -> RegionDescriptors:
    boxes = torch.tensor([[10.0 * n, 0.0, 10.0 * n + 10, 10.0] for n in range(len(rows))]).reshape(-1, 4)
    return RegionDescriptors(image, Regions(boxes, (100, 100)), torch.tensor(rows).float().reshape(len(rows), dim))


def unit_rows(count: int, dim: int, seed: int = 0) -> np.ndarray:
    """Random directions, float32 ``(count, dim)``."""
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def database(*images: Rows, dim: int = 2) -> DenseDatabase:
    """Images "0", "1" ... of these rows."""
    return DenseDatabase.of([described(str(n), rows, dim) for n, rows in enumerate(images)], dim)


def query(*rows: Sequence[float], dim: int = 2) -> RegionDescriptors:
    return described("query", rows, dim)


def search(data: DenseDatabase, *queries: RegionDescriptors, depth: int = 100) -> Search:
    return Search(queries, tuple(data.search(queries, depth)), data)


def names(found: Search, number: int = 0) -> list[str]:
    """Images of a result, best first."""
    return [hit.image for hit in found.results[number]]


def scores(found: Search, number: int = 0) -> list[float]:
    return [hit.score for hit in found.results[number]]


def random_rows(count: int, dim: int = 8, seed: int = 0) -> np.ndarray:
    """Unit vectors around a few centres."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(1, count // 5), dim))
    rows = centres[rng.integers(0, len(centres), count)] + 0.5 * rng.standard_normal((count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def random_database(images: int, most: int = 4, dim: int = 8, seed: int = 0) -> DenseDatabase:
    """Images of 0 to ``most`` rows."""
    items = np.repeat(np.arange(images), np.random.default_rng(seed).integers(0, most + 1, images))
    boxes = np.tile(np.array([0, 0, 10, 10], np.float32), (len(items), 1))
    return DenseDatabase(tuple(str(i) for i in range(images)), random_rows(len(items), dim, seed), items, boxes)
