"""Rows of each kind to be searched, with their scores by the equation: for the contract of engines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from objemb.index.storage.blocks import VectorBlock
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.storage.visual_words import WordRows, in_memory
from objemb.structures import VisualWords
from tests.index.searching import unit_rows
from tests.index.words import schema, slow_score, words_of

DIM = 16


class Gallery(ABC):
    """Two blocks of images with several rows each, some of them dead.

    Attributes:
        blocks: The blocks.
        dim: Length of the vectors.
    """

    blocks: Sequence[Any]
    dim = DIM

    @abstractmethod
    def queries(self, count: int, seed: int) -> Any:
        """``count`` query rows."""

    @abstractmethod
    def one_of(self, row: int) -> Any:
        """A query that is a row of the second block, which is its best match."""

    @abstractmethod
    def wrong_queries(self) -> Any:
        """A query row of another length."""

    @abstractmethod
    def score(self, row: int, queries: Any, query_row: int) -> float:
        """The score of a row, counted through all blocks, by the equation."""

    def alive(self) -> np.ndarray:
        """bool, of all rows."""
        return np.concatenate([np.ones(len(b), bool) if b.alive is None else b.alive for b in self.blocks])

    def images(self) -> np.ndarray:
        """int64, of all rows."""
        return np.concatenate([b.images for b in self.blocks])


class VectorGallery(Gallery):
    """Unit vectors in both precisions."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        images = np.repeat(np.arange(300), random.integers(1, 4, 300))
        vectors, half = unit_rows(random, len(images), DIM), int(np.searchsorted(images, 150))
        alive = random.random(half) >= 0.2
        self.blocks = [
            VectorBlock(vectors[:half], images[:half], alive),
            VectorBlock(vectors[half:].astype(np.float16), images[half:]),
        ]

    def queries(self, count: int, seed: int) -> np.ndarray:
        return unit_rows(np.random.default_rng(seed), count, DIM)

    def one_of(self, row: int) -> np.ndarray:
        return self.blocks[1].vectors[row : row + 1].astype(np.float32)

    def wrong_queries(self) -> np.ndarray:
        return np.zeros((1, 3), np.float32)

    def score(self, row: int, queries: np.ndarray, query_row: int) -> float:
        first, second = (b.vectors for b in self.blocks)
        vector = first[row] if row < len(first) else second[row - len(first)]
        return float(vector.astype(np.float64) @ queries[query_row].astype(np.float64))


class WordGallery(Gallery):
    """Visual words, those of every region its own."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self._rows = schema(dim=DIM, items="regions", words=6)
        self._images = [words_of(f"{n}", self._rows, random, regions=int(random.integers(1, 4))) for n in range(80)]
        first, second = in_memory(self._rows, self._images[:40]), in_memory(self._rows, self._images[40:])
        alive = random.random(len(first)) >= 0.2
        self.blocks = [first.among(alive), replace(second, images=second.images + 40)]
        self._asked: list[tuple[Any, VisualWords]] = []

    def queries(self, count: int, seed: int) -> Any:
        return self._remembered(words_of("q", self._rows, np.random.default_rng(seed), regions=count, query=True))

    def one_of(self, row: int) -> Any:
        image = self._images[int(self.blocks[1].images[row])]
        first = int(np.searchsorted(self.blocks[1].images, self.blocks[1].images[row]))
        return self._remembered(image[row - first])

    def wrong_queries(self) -> Any:
        wide = schema(dim=200, words=6)
        return wide.queries([words_of("q", wide, np.random.default_rng(0), regions=1, query=True)])

    def score(self, row: int, queries: Any, query_row: int) -> float:
        image = int(self.images()[row])
        return slow_score(
            self._rows,
            next(query for encoded, query in self._asked if encoded is queries),
            query_row,
            self._images[image],
            row - int(np.searchsorted(self.images(), image)),
        )

    def _remembered(self, query: VisualWords) -> Any:
        encoded = self._rows.queries([query])
        self._asked.append((encoded, query))
        return encoded


#: By the name of the schema.
GALLERIES: dict[str, type[Gallery]] = {UnitVectors.name: VectorGallery, WordRows.name: WordGallery}
