from __future__ import annotations

import numpy as np
import pytest

from objemb.datasets.cleaning.pairs import TILE, candidate_pairs, match_photos, pair_tiles
from objemb.datasets.cleaning.settings import CleaningSettings
from objemb.structures import LocalFeatures

pytest.importorskip("cv2")


def features(points: np.ndarray, vectors: np.ndarray) -> LocalFeatures:
    return LocalFeatures((100, 100), points, vectors)


def scattered(seed: int, count: int) -> np.ndarray:
    """Points that are some pixels apart."""
    rng = np.random.default_rng(seed)
    cells = rng.permutation(100)[:count]
    return (10 + 5 * np.stack([cells // 10, cells % 10], axis=1) + rng.uniform(0, 2, (count, 2))).astype(np.float32)


def unit(count: int) -> np.ndarray:
    return np.eye(count, dtype=np.float32)


AFFINE = np.array([[1.2, -0.3, 20.0], [0.25, 0.9, 5.0]])


def mapped(points: np.ndarray, affine: np.ndarray = AFFINE) -> np.ndarray:
    return (points @ affine[:, :2].T + affine[:, 2]).astype(np.float32)


def test_photos_agree_on_the_map_between_them() -> None:
    points = scattered(0, 20)
    there = mapped(points)
    there[16:] = scattered(1, 4)  # four matches are wrong
    agreement = match_photos(features(points, unit(20)), features(there, unit(20)), CleaningSettings(least=12))
    assert agreement.affine is not None
    np.testing.assert_allclose(agreement.affine, AFFINE, atol=0.05)
    assert agreement.inliers == 16
    np.testing.assert_array_equal(agreement.first, points[:16])
    np.testing.assert_array_equal(agreement.second, there[:16])
    for box, inliers in zip(agreement.boxes, (points[:16], there[:16]), strict=True):  # sides are 1 by default
        np.testing.assert_allclose(box, [*(inliers.min(axis=0) - 0.5), *(inliers.max(axis=0) + 0.5)], atol=1e-4)
    fewer = match_photos(features(points, unit(20)), features(there, unit(20)), CleaningSettings(least=17))
    assert (fewer.inliers, fewer.affine) == (16, None)


def test_features_at_one_point_count_once() -> None:
    points = np.repeat(scattered(0, 5), 4, axis=0)
    settings = CleaningSettings(least=6)
    agreement = match_photos(features(points, unit(20)), features(mapped(points), unit(20)), settings)
    assert (agreement.inliers, agreement.affine) == (5, None)


@pytest.mark.parametrize(
    "linear",
    [
        pytest.param([[1, 0], [0, -1]], id="mirrored"),
        pytest.param([[0.05, 0], [0, 0.05]], id="collapsed"),
        pytest.param([[1, 0], [0, 0.2]], id="squashed"),
    ],
)
def test_maps_that_no_view_has_do_not_count(linear: list[list[float]]) -> None:
    points = scattered(0, 20)
    affine = np.concatenate([np.array(linear), [[10.0], [90.0]]], axis=1)
    there = np.clip(mapped(points, affine), 0, 100)
    settings = CleaningSettings(least=4, tolerance=0.001)
    assert match_photos(features(points, unit(20)), features(there, unit(20)), settings).affine is None


def test_photos_without_features() -> None:
    nothing = LocalFeatures.empty((10, 10), 20)
    some = features(scattered(0, 20), unit(20))
    for first, second in ((nothing, nothing), (nothing, some), (some, nothing)):
        assert match_photos(first, second, CleaningSettings()).inliers == 0


@pytest.mark.parametrize("count", [0, 1, 2, TILE, 2 * TILE + 5])
def test_tiles_have_each_pair_once_and_few_photos(count: int) -> None:
    tiles = list(pair_tiles(count))
    pairs = [tuple(pair) for tile in tiles for pair in tile.tolist()]
    assert sorted(pairs) == [(a, b) for a in range(count) for b in range(a + 1, count)]
    assert all(len(np.unique(tile)) <= 2 * TILE for tile in tiles)


def test_tiles_of_chosen_pairs() -> None:
    rng = np.random.default_rng(0)
    chosen = np.unique(np.sort(rng.integers(0, 150, (200, 2)), axis=1), axis=0)
    chosen = chosen[chosen[:, 0] < chosen[:, 1]]
    tiles = list(pair_tiles(150, chosen))
    assert sorted(map(tuple, np.concatenate(tiles).tolist())) == sorted(map(tuple, chosen.tolist()))
    assert all(len(np.unique(tile // TILE, axis=0)) == 1 for tile in tiles)
    assert list(pair_tiles(5, np.zeros((0, 2), np.int64))) == []


def test_candidates_by_hand() -> None:
    angles = np.array([0, 10, 25, 180], np.float64) * np.pi / 180
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert candidate_pairs(vectors, 1).tolist() == [[0, 1], [1, 2], [2, 3]]
    every = [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    assert candidate_pairs(vectors, 3).tolist() == candidate_pairs(vectors, 50).tolist() == every
    assert candidate_pairs(vectors[:1], 3).shape == candidate_pairs(vectors[:0], 3).shape == (0, 2)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("least", 3), ("ratio", 1.5), ("tolerance", 0.0), ("candidates", 0), ("smallest_view", 1), ("size", 4)],
)
def test_settings_out_of_range(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{setting}: expected .*, found {value}"):
        CleaningSettings(**{setting: value})  # type: ignore[arg-type]
