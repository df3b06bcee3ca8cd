from __future__ import annotations

import math

import numpy as np
import pytest

from objemb.ops.word_matching import matched_places, region_scores
from objemb.structures import MatchKernel, Regions, VisualWords, WordPlaces

DIM = 4
SIZE = (10, 20)


def codes(*rows: str) -> np.ndarray:
    return np.packbits([[int(bit) for bit in row] for row in rows], axis=1).reshape(len(rows), 1)


def words(rows: dict[int, list[tuple[int, str]]], regions: Regions, places: WordPlaces | None = None) -> VisualWords:
    """Binary words of rows: ``{row: [(word, bits), ...]}``, each of weight 1 plus its number."""
    flat = [(row, word, bits) for row, of_row in sorted(rows.items()) for word, bits in of_row]
    return VisualWords(
        "image",
        regions,
        DIM,
        np.array([row for row, _, _ in flat], np.int64),
        np.array([word for _, word, _ in flat], np.int32),
        codes(*(bits for _, _, bits in flat)) if flat else np.zeros((0, 1), np.uint8),
        np.array([1 + word for _, word, _ in flat], np.float32),
        np.ones(len(regions), np.float32),
        places,
    )


KERNEL = MatchKernel(words=5, alpha=2)
#: The whole image, its left half, its right half, and a box without features.
REGIONS = Regions([[0, 0, 20, 10], [0, 0, 10, 10], [10.5, 0, 20, 10], [0, 9, 1, 10]], SIZE)
#: Word 1 at the left, twice; word 2 at both sides; word 4 at the right.
PLACES = WordPlaces(
    np.array([1, 2, 1, 2, 4], np.int32),
    np.array([[1, 1], [2, 5], [3, 3], [15, 5], [16, 6]], np.float32),
    codes("1111", "1100", "1011", "0011", "0000"),
)


def test_the_region_whose_words_a_query_has() -> None:
    """The query has word 1 as 1111 and word 2 as 0011; weights are 2 and 3, alpha is 2.

    Left: word 1 has 1111 + 1011 = 2 0 2 2, as signs 1011, so u = 1/2, and word 2 has 1100, so u = -1: not above 0.
    Right: word 2 has 0011, so u = 1. In the whole image word 2 has 1100 + 0011 = 0, as signs 0000, so u = 0.
    """
    query = words({0: [(1, "1111"), (2, "0011")]}, Regions.whole((7, 7)))
    found = region_scores(query, 0, words({}, REGIONS, PLACES), KERNEL)
    left, right = 2 * 0.5**2 / math.sqrt(2), 3 * 1.0 / math.sqrt(2)
    whole = 2 * 0.5**2 / math.sqrt(3)
    np.testing.assert_allclose(found, [whole, left, right, 0])


def test_residuals_that_are_no_signs() -> None:
    """Left, word 1: 2 0 2 2 of length sqrt(12); with (1, 0, 0, 0) u = 2 / sqrt(12)."""
    query = VisualWords(
        "q",
        Regions.whole((7, 7)),
        DIM,
        np.array([0]),
        np.array([1], np.int32),
        np.array([[1, 0, 0, 0]], np.float32),
        np.array([2], np.float32),
        np.ones(1, np.float32),
    )
    found = region_scores(query, 0, words({}, REGIONS, PLACES), MatchKernel(words=5, binary=False, alpha=1))
    np.testing.assert_allclose(found[1], 2 * 2 / math.sqrt(12) / math.sqrt(2))


def test_the_row_that_is_asked_for() -> None:
    query = words({0: [(3, "1111")], 1: [(4, "0000")]}, Regions([[0, 0, 5, 5], [0, 0, 6, 6]], (7, 7)))
    assert region_scores(query, 0, words({}, REGIONS, PLACES), KERNEL).tolist() == [0, 0, 0, 0], "no common word"
    assert region_scores(query, 1, words({}, REGIONS, PLACES), KERNEL).argmax() == 2


def test_nothing_to_compare() -> None:
    none = WordPlaces(np.zeros(0, np.int32), np.zeros((0, 2), np.float32), np.zeros((0, 1), np.uint8))
    query = words({0: [(1, "1111")]}, Regions.whole((7, 7)))
    assert region_scores(query, 0, words({}, REGIONS, none), KERNEL).tolist() == [0, 0, 0, 0]
    empty = words({}, Regions.whole((7, 7)))
    assert region_scores(empty, 0, words({}, REGIONS, PLACES), KERNEL).tolist() == [0, 0, 0, 0]
    assert matched_places(none, PLACES, DIM, 0).shape == matched_places(PLACES, none, DIM, 0).shape == (0, 2)
    with pytest.raises(ValueError, match=r"'image': expected positions .* \(aggregator.positions=true\), found none"):
        region_scores(query, 0, words({}, REGIONS), KERNEL)


def test_features_of_the_same_word_with_similar_signs() -> None:
    """Of word 1 the second feature is nearer to 0011 (u = 1/2) than the first (u = 0); word 2 has 0011 exactly."""
    first = WordPlaces(np.array([1, 2, 3], np.int32), np.zeros((3, 2), np.float32), codes("0011", "0011", "1111"))
    assert matched_places(first, PLACES, DIM, 0.2).tolist() == [[0, 2], [1, 3]]
    assert matched_places(first, PLACES, DIM, 0.6).tolist() == [[1, 3]]


def test_pairs_against_all_pairs_one_by_one() -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (2, 60, 12))
    numbers = rng.integers(0, 6, (2, 60)).astype(np.int32)
    sides = [
        WordPlaces(n, np.zeros((60, 2), np.float32), np.packbits(b, axis=1)) for n, b in zip(numbers, bits, strict=True)
    ]
    expected = []
    for i in range(60):
        scores = {
            j: 1 - 2 * float((bits[0, i] != bits[1, j]).mean()) for j in range(60) if numbers[0, i] == numbers[1, j]
        }
        best = max(scores, key=lambda j: (scores[j], -j), default=None)
        if best is not None and scores[best] >= 0.25:
            expected.append([i, best])
    assert matched_places(*sides, 12, 0.25).tolist() == expected
