from __future__ import annotations

import numpy as np
import pytest

from objemb.ops.feature_matching import nearest_pairs
from objemb.ops.opencv import agreeing, root_sift
from objemb.structures import LocalFeatures

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
    return LocalFeatures((9, 9), np.arange(2 * len(rows)).reshape(-1, 2), rows)


def test_unit_vectors_in_original_pixels() -> None:
    found = root_sift(blobs(), (320, 640), 50)
    assert 0 < len(found) <= 50
    assert found.size == (320, 640)
    np.testing.assert_allclose((found.vectors**2).sum(axis=1), 1, rtol=1e-4)
    assert (np.diff(found.strengths) <= 0).all(), "the strongest come first"
    plain = root_sift(blobs(), (160, 160), 50)
    np.testing.assert_allclose(found.points, plain.points * [4, 2], rtol=1e-5)
    np.testing.assert_allclose(found.sides, plain.sides / (0.25 + 0.5) * 2, rtol=1e-5)
    np.testing.assert_allclose(found.scales, plain.scales * 0.375, rtol=1e-5)


def test_a_disc_is_a_point_at_its_centre_as_large_as_it_is() -> None:
    rows, columns = np.mgrid[:120, :160]
    disc = np.where((columns - 100) ** 2 + (rows - 50) ** 2 <= 20**2, 200, 40).astype(np.uint8)
    found = root_sift(disc, disc.shape, 1)  # type: ignore[arg-type]
    np.testing.assert_allclose(found.points, [[100.5, 50.5]], atol=0.5)
    # a disc of radius r has its extremum at the scale r / sqrt(2); 4 x 4 parts, each of 3 scales
    np.testing.assert_allclose(found.sides, [12 * 20 / 2**0.5], rtol=0.15)
    assert np.log2(found.scales).tolist() == [-2], "the third octave, whose last scale is 8 * 1.6"


def test_a_flat_picture_has_none() -> None:
    found = root_sift(np.full((40, 40), 7, np.uint8), (40, 40), 50)
    assert len(found) == 0
    assert found.dim == 128
    assert nearest_pairs(found, found, 0.8).shape == (0, 2)


def test_only_clear_matches_by_hand() -> None:
    first = features([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    second = features([[0, 0.96, 0.28], [0, 0.6, 0.8], [1, 0, 0]])
    # of the second, distances are .283 and .894; of the third, .632 and 1.2
    assert nearest_pairs(first, second, 0.5).tolist() == [[0, 2], [1, 0]]
    assert nearest_pairs(first, second, 0.6).tolist() == [[0, 2], [1, 0], [2, 1]]
    assert nearest_pairs(first, features([[1, 0, 0]]), 0.8).shape == (0, 2), "one feature has no second neighbour"


def test_mutual_neighbours_by_hand() -> None:
    first = features([[1, 0, 0], [0.96, 0.28, 0], [0, 0, 1]])
    second = features([[0.99, 0.141, 0], [0, -1, 0], [0, 0.28, 0.96]])
    assert nearest_pairs(first, second, 0.8).tolist() == [[0, 0], [1, 0], [2, 2]]
    # 0.99 against 0.99: the cosine of the second feature, 0.96 * 0.99 + 0.28 * 0.141 = 0.9899, is a little lower
    assert nearest_pairs(first, second, 0.8, mutual=True).tolist() == [[0, 0], [2, 2]]


def test_the_same_as_a_slow_loop() -> None:
    rng = np.random.default_rng(3)
    rows = [rng.normal(size=(n, 4)).astype(np.float32) for n in (23, 31)]
    first, second = (
        LocalFeatures((9, 9), np.zeros((len(r), 2)), r / np.linalg.norm(r, axis=1, keepdims=True)) for r in rows
    )
    distances = np.linalg.norm(first.vectors[:, None] - second.vectors[None], axis=2)
    expected = []
    for number, row in enumerate(distances):
        order = np.argsort(row)
        if row[order[0]] < 0.8 * row[order[1]] and distances[:, order[0]].argmin() == number:
            expected.append([number, int(order[0])])
    assert 3 < len(expected) < 23
    assert nearest_pairs(first, second, 0.8, mutual=True).tolist() == expected


def test_an_affine_map_is_found_among_wrong_pairs() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 100, (30, 2)).astype(np.float32)
    affine = np.array([[0.9, -0.2, 15], [0.1, 1.1, -4]])
    there = (points @ affine[:, :2].T + affine[:, 2]).astype(np.float32)
    there[20:] = rng.uniform(0, 100, (10, 2))
    found, agree = agreeing(points, there, 2.0)
    assert agree.sum() >= 20
    np.testing.assert_allclose(found, affine, atol=0.05)
    np.testing.assert_array_equal(agreeing(points, there, 2.0)[1], agree)
