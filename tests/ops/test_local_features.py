from __future__ import annotations

import numpy as np
import pytest

from objemb.ops.local_features import LocalFeatures, matched
from objemb.ops.opencv import agreeing, root_sift

pytest.importorskip("cv2")


def blobs(seed: int = 0, side: int = 160) -> np.ndarray:
    rng = np.random.default_rng(seed)
    picture = np.full((side, side), 90.0)
    for _ in range(60):
        x, y, size = (*rng.integers(0, side, 2).tolist(), int(rng.integers(4, 18)))
        picture[y : y + size, x : x + size] = rng.integers(0, 255)
    return picture.astype(np.uint8)


def features(vectors: list[list[float]]) -> LocalFeatures:
    rows = np.array(vectors, np.float32)
    return LocalFeatures(np.arange(2 * len(rows), dtype=np.float32).reshape(-1, 2), rows)


def test_unit_vectors_in_original_pixels() -> None:
    found = root_sift(blobs(), (0.5, 0.25), 50)
    assert 0 < len(found) <= 50
    np.testing.assert_allclose((found.vectors**2).sum(axis=1), 1, rtol=1e-4)
    plain = root_sift(blobs(), (1.0, 1.0), 50)
    np.testing.assert_allclose(found.points, plain.points * [4, 2], rtol=1e-5)


def test_a_flat_picture_has_none() -> None:
    found = root_sift(np.full((40, 40), 7, np.uint8), (1.0, 1.0), 50)
    assert len(found) == 0
    assert matched(found, found, 0.8).shape == (0, 2)
    assert len(found.within((0, 0, 9, 9))) == 0


def test_only_clear_matches_by_hand() -> None:
    first = features([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    second = features([[0, 0.96, 0.28], [0, 0.6, 0.8], [1, 0, 0]])
    # of the second, distances are .283 and .894; of the third, .632 and 1.2
    assert matched(first, second, 0.5).tolist() == [[0, 2], [1, 0]]
    assert matched(first, second, 0.6).tolist() == [[0, 2], [1, 0], [2, 1]]
    assert matched(first, features([[1, 0, 0]]), 0.8).shape == (0, 2), "one feature has no second neighbour"


def test_within_a_box() -> None:
    found = features([[1, 0], [0, 1], [1, 0]])  # at (0, 1), (2, 3), (4, 5)
    assert found.within((1, 1, 4, 4)).points.tolist() == [[2, 3]]


def test_an_affine_map_is_found_among_wrong_pairs() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 100, (30, 2)).astype(np.float32)
    affine = np.array([[0.9, -0.2, 15], [0.1, 1.1, -4]])
    there = (points @ affine[:, :2].T + affine[:, 2]).astype(np.float32)
    there[20:] = rng.uniform(0, 100, (10, 2))
    found, count = agreeing(points, there, 2.0)
    assert count >= 20
    np.testing.assert_allclose(found, affine, atol=0.05)
    assert agreeing(points, there, 2.0)[1] == count
