"""Small images in visual words, and the slow match kernel that follows the equation."""

from __future__ import annotations

from typing import Any

import numpy as np

from objemb.index.storage.visual_words import WordRows
from objemb.structures import Regions, VisualWords, WordPlaces

SIZE = (480, 640)


def schema(**changes: Any) -> WordRows:
    return WordRows(**{"dim": 20, "words": 12, **changes})


def words_of(
    image: str,
    rows: WordRows,
    random: np.random.Generator,
    *,
    regions: int | None = None,
    most_words: int = 6,
    query: bool = False,
    **metadata: Any,
) -> VisualWords:
    """Any number of regions; words in row 0 alone where the schema is of images, unless it is a query."""
    count = int(random.integers(0, 4)) if regions is None else regions
    corners = np.sort(random.random((count, 2, 2), np.float32) * np.array(SIZE[::-1], np.float32), axis=1)
    boxes = Regions(
        corners.reshape(count, 4), SIZE, random.random(count, np.float32), random.integers(-1, 2, count), ("cup", "jar")
    )
    worded = count if rows.items == "regions" or query else min(count, 1)
    counts = random.integers(0, min(most_words, rows.words) + 1, worded)
    words = [np.sort(random.choice(rows.words, n, replace=False)) for n in counts]
    total = int(counts.sum())
    residuals = random.standard_normal((total, rows.dim)).astype(np.float32)
    if total > 3:  # some alike, so that scores tie and similarities are 1
        residuals[random.integers(total, size=total // 2)] = residuals[0]
    if not rows.binary:
        residuals /= np.linalg.norm(residuals, axis=1, keepdims=True)
    places = None
    if rows.positions:
        features = int(random.integers(0, 5)) if count else 0  # without rows there is nothing to find
        points = random.random((features, 2), np.float32) * np.array(SIZE[::-1], np.float32)
        codes = np.packbits(random.random((features, rows.dim)) < 0.5, axis=1)
        places = WordPlaces(random.integers(0, rows.words, features).astype(np.int32), points, codes)
    return VisualWords(
        image,
        boxes,
        rows.dim,
        np.repeat(np.arange(worded), counts),
        np.concatenate([np.zeros(0, np.int32), *words]).astype(np.int32),
        np.packbits(residuals > 0, axis=1) if rows.binary else residuals,
        random.random(total, np.float32) if query else np.ones(total, np.float32),
        random.random(count, np.float32) + 0.1,
        places,
        metadata,
    )


def slow_score(rows: WordRows, query: VisualWords, row: int, image: VisualWords, other: int) -> float:
    """``scale_X scale_Y sum over common words of weight sigma(<u, v>)``, word by word in Python."""
    total = 0.0
    for x in np.flatnonzero(query.rows == row):
        for y in np.flatnonzero(image.rows == other):
            if query.words[x] == image.words[y]:
                similarity = _similarity(rows, query.residuals[x], image.residuals[y])
                above = similarity >= rows.tau if rows.tau_inclusive else similarity > rows.tau
                sigma = np.sign(similarity) * abs(similarity) ** rows.alpha if above else 0.0
                total += float(query.weights[x]) * float(sigma)
    return float(query.scales[row]) * float(image.scales[other]) * total


def _similarity(rows: WordRows, one: np.ndarray, other: np.ndarray) -> float:
    if not rows.binary:
        return float(np.dot(one.astype(np.float64), other.astype(np.float64)))
    signs, others = (2 * np.unpackbits(residual)[: rows.dim].astype(int) - 1 for residual in (one, other))
    return int(np.dot(signs, others)) / rows.dim


def same_words(found: VisualWords, expected: VisualWords, tolerance: float = 0) -> bool:
    """Whether all that an index stores is equal; residuals up to a tolerance, places up to their precision."""
    pairs = [(found.rows, expected.rows), (found.words, expected.words), (found.scales, expected.scales)]
    regions, others = found.regions, expected.regions
    pairs += [(regions.boxes, others.boxes), (regions.scores, others.scores)]
    if found.places is not None and expected.places is not None:
        pairs += [(found.places.words, expected.places.words), (found.places.codes, expected.places.codes)]
        if np.abs(found.places.points - expected.places.points).max(initial=0) > 640 / 65535:
            return False
    return (
        found.image == expected.image
        and dict(found.metadata) == dict(expected.metadata)
        and (found.places is None) == (expected.places is None)
        and regions.size == others.size
        and regions.label_names == others.label_names
        and all(np.array_equal(one, other) for one, other in pairs)
        and bool((np.abs(found.residuals.astype(np.float64) - expected.residuals) <= tolerance).all())
    )
