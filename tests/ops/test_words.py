from __future__ import annotations

import numpy as np
import pytest

from objemb.ops.faiss import clusters, nearest
from objemb.ops.words import Assigned, WordSums, mean_over_regions, signs, sums_by_region, vlad
from tests import slow_words as slow

#: The case of the appendix: two words, region A with two features, region B with the first of them.
CENTRES = np.array([[0, 0], [10, 0]], np.float32)
FEATURES = np.array([[1, 2], [9, 1]], np.float32)
MEMBERS = np.array([[0, 0], [0, 1], [1, 0]])


def assigned(features: np.ndarray = FEATURES, centres: np.ndarray = CENTRES, count: int = 1) -> Assigned:
    words = [slow.nearest_words(x, centres, count) for x in features.tolist()]
    return Assigned.of(features, centres, np.array(words, np.int64).reshape(len(features), min(count, len(centres))))


def blocks(sums: WordSums, region: int = 0) -> slow.Blocks:
    rows = sums.regions == region
    return dict(zip(sums.words[rows].tolist(), sums.sums[rows].tolist(), strict=True))


def test_the_vector_of_detect_to_retrieve_by_hand() -> None:
    of_regions = sums_by_region(assigned(), MEMBERS)
    vectors = vlad(of_regions, 2, 2)
    assert vectors.tolist() == [[1, 2, -1, 1], [1, 2, 0, 0]]
    unit = vectors / of_regions.lengths(2)[:, None]
    np.testing.assert_allclose(unit[0], [0.377964, 0.755929, -0.377964, 0.377964], atol=1e-6)
    np.testing.assert_allclose(unit[1], [0.447214, 0.894427, 0, 0], atol=1e-6)
    mean = mean_over_regions(assigned(), MEMBERS, 2)
    np.testing.assert_allclose(vlad(mean, 1, 2)[0], [0.412589, 0.825178, -0.188982, 0.188982], atol=1e-6)
    words, _ = mean.directions()
    np.testing.assert_allclose(words.sums, [[0.447214, 0.894427], [-0.707107, 0.707107]], atol=1e-6)
    assert signs(words.sums).tolist() == [[192], [64]]


def test_regions_that_are_not_normalised_by_hand() -> None:
    mean = mean_over_regions(assigned(), MEMBERS, 4, normalised=False)
    assert vlad(mean, 1, 2).tolist() == [[2 / 4, 4 / 4, -1 / 4, 1 / 4]]


def test_nothing_in_anything() -> None:
    none, nobody = np.zeros((0, 2), np.float32), np.zeros((0, 2), np.int64)
    for features in (none, FEATURES):
        sums = sums_by_region(assigned(features), nobody)
        assert vlad(sums, 3, 2).tolist() == [[0] * 4] * 3
        assert sums.lengths(3).tolist() == [0] * 3
        assert len(sums.directions()[0].words) == 0
        assert len(mean_over_regions(assigned(features), nobody, 3).words) == 0
    assert signs(np.zeros((0, 9))).shape == (0, 2)


def test_words_without_a_direction_do_not_count() -> None:
    """Features on both sides of a centre, and one on a centre."""
    features = np.array([[1, 2], [-1, -2], [10, 0], [0.5, 0]], np.float32)
    sums = sums_by_region(assigned(features[:3]), np.array([[0, 0], [0, 1], [0, 2]]))
    assert vlad(sums, 1, 2).tolist() == [[0, 0, 0, 0]]
    assert len(sums.directions()[0].words) == 0
    with_more = sums_by_region(assigned(features), np.array([[0, n] for n in range(4)]))
    words, lengths = with_more.directions()
    assert (words.words.tolist(), words.sums.tolist(), lengths.tolist()) == ([0], [[1, 0]], [0.5])


def test_bits_by_hand() -> None:
    """A number of 0 is no positive one; the last byte is filled up with zeros."""
    assert signs(np.array([[1, -1, 0, 2, 0, 0, 0, 0, 3.0]])).tolist() == [[0b10010000, 0b10000000]]


def random_case(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int]:
    """Features, centres, members, regions, assignments: regions without features, features without a region, equal
    features, one feature, none at all, more assignments than words."""
    dim, words, count = (int(n) for n in rng.integers([1, 1, 1], [6, 5, 4]))
    features = rng.standard_normal((int(rng.integers(0, 8)), dim)).astype(np.float32)
    if len(features) > 2 and rng.random() < 0.5:
        features[1] = features[0]
    regions = int(rng.integers(0, 5))
    members = np.argwhere(rng.random((regions, len(features))) < 0.5).astype(np.int64)
    return features, rng.standard_normal((words, dim)).astype(np.float32), members, regions, count


def test_against_the_equations() -> None:
    rng = np.random.default_rng(0)
    for _ in range(1000):
        features, centres, members, regions, count = random_case(rng)
        given = assigned(features, centres, count)
        found = sums_by_region(given, members)
        expected = [
            slow.vlad_blocks(features[members[members[:, 0] == r, 1]].tolist(), centres.tolist(), count)
            for r in range(regions)
        ]
        for region, wanted in enumerate(expected):
            of_region = blocks(found, region)
            assert of_region.keys() == wanted.keys()
            for k, block in wanted.items():
                np.testing.assert_allclose(of_region[k], block, atol=1e-6)
        for normalised in (True, False):
            mean = blocks(mean_over_regions(given, members, regions, normalised))
            wanted = slow.mean([slow.unit(b) for b in expected] if normalised else expected)
            assert mean.keys() == wanted.keys()
            for k, block in wanted.items():
                np.testing.assert_allclose(mean[k], block, atol=1e-6)


def test_nearest_centres() -> None:
    pytest.importorskip("faiss")
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((7, 3)).astype(np.float32)
    vectors = rng.standard_normal((20, 3)).astype(np.float32)
    for count in (1, 3, 9):
        wanted = [slow.nearest_words(x, centres.tolist(), count) for x in vectors.tolist()]
        found = nearest(vectors, centres, count)
        assert found.dtype == np.int64
        assert found.tolist() == wanted
    assert nearest(vectors[:0], centres, 9).shape == (0, 7)
    with pytest.raises(ValueError, match="count: expected an integer of 1 or more"):
        nearest(vectors, centres, 0)


def test_clusters_are_means_of_what_is_nearest_to_them() -> None:
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((60, 2)).astype(np.float32)
    rounds: list[tuple[int, int]] = []
    centres = clusters(vectors, 3, iterations=40, seed=0, on_round=lambda done, of: rounds.append((done, of)))
    own = nearest(vectors, centres, 1)[:, 0]
    np.testing.assert_allclose(centres, [vectors[own == k].mean(axis=0) for k in range(3)], atol=1e-6)
    assert rounds == [(n, 40) for n in range(1, len(rounds) + 1)]
    assert len(rounds) < 40, "it ends where nothing changes any more"
    np.testing.assert_array_equal(centres, clusters(vectors, 3, iterations=40, seed=0))


def test_clusters_of_few_and_equal_vectors() -> None:
    pytest.importorskip("faiss")
    assert np.isfinite(clusters(np.ones((5, 2), np.float32), 3, iterations=4, seed=0)).all()
    with pytest.raises(ValueError, match="clusters: expected at least 6 vectors for as many clusters, found 5"):
        clusters(np.ones((5, 2), np.float32), 6, iterations=4, seed=0)
