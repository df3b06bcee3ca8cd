from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from objemb.aggregators.asmk import Asmk
from objemb.checks import NotFittedError
from objemb.structures import LocalFeatures, RegionFeatures, Regions, VisualWords
from tests import slow_words as slow

pytest.importorskip("faiss")

MINIMAL = {"words": 40, "query_assignments": 1}
SIZE = (100, 100)


def described(
    vectors: np.ndarray, members: Sequence[Sequence[int]], regions: int, whole: bool = True
) -> RegionFeatures:
    """Features along the diagonal; region 0 is the whole image, or none is."""
    points = np.stack([np.linspace(1, 90, max(1, len(vectors)))[: len(vectors)]] * 2, axis=1)
    features = LocalFeatures(SIZE, points.astype(np.float32), vectors.astype(np.float32))
    boxes = [[n, n, 95 + n / 4, 95 + n / 4] for n in range(regions)]
    if whole and regions:
        boxes[0] = [0, 0, 100, 100]
    pairs = np.array(sorted(map(tuple, members)), np.int64).reshape(-1, 2)
    return RegionFeatures("photo", Regions(boxes, SIZE), features, pairs, {"price": 3})


def learned(centres: np.ndarray, **settings: Any) -> Asmk:
    """An aggregator with these words."""
    aggregator = Asmk(words=len(centres), **settings)
    aggregator.connect(centres.shape[1])
    aggregator.codebook.centres.copy_(torch.from_numpy(centres))
    aggregator.codebook.count.fill_(1)
    return aggregator


def residuals(words: VisualWords) -> np.ndarray:
    """float ``(M, D)``, unit length: signs as such."""
    if not words.binary:
        return words.residuals.astype(np.float64)
    bits = np.unpackbits(words.residuals, axis=1, count=words.dim).astype(np.float64)
    return (2 * bits - 1) / np.sqrt(words.dim)


def score(first: VisualWords, row: int, second: VisualWords, other: int, aggregator: Asmk) -> float:
    """The kernel of two rows as :class:`VisualWords` has it."""
    u, v, kernel = residuals(first), residuals(second), aggregator.kernel
    total = 0.0
    for m, n in itertools.product(np.flatnonzero(first.rows == row), np.flatnonzero(second.rows == other)):
        if first.words[m] == second.words[n]:
            part = slow.sigma(float(u[m] @ v[n]), kernel.alpha, kernel.tau, kernel.tau_inclusive)
            total += float(first.weights[m]) * part
    return float(first.scales[row]) * float(second.scales[other]) * total


CENTRES = np.array([[0, 0], [10, 0]], np.float32)
#: Region A, here the whole image, has two features, region B the first of them.
INDEXED = described(np.array([[1, 2], [9, 1]]), [(0, 0), (0, 1), (1, 0)], 2)
QUERY = described(np.array([[2, 1], [11, 1]]), [(0, 0), (0, 1)], 1)


def test_the_vector_of_detect_to_retrieve_by_hand() -> None:
    aggregator = learned(CENTRES, form="regional", binary=False, query_assignments=1, count_normalised=False)
    found = aggregator.aggregate(INDEXED)
    assert (found.image, found.metadata, found.dim, found.places) == ("photo", {"price": 3}, 2, None)
    assert found.regions.boxes.tolist() == INDEXED.regions.boxes.tolist()
    assert (found.rows.tolist(), found.words.tolist()) == ([0, 0], [0, 1]), "the other box has no words of its own"
    np.testing.assert_allclose(found.residuals, [[0.447214, 0.894427], [-0.707107, 0.707107]], atol=1e-6)
    query = aggregator.aggregate_query(QUERY)
    assert score(query, 0, found, 0, aggregator) == pytest.approx(0.512, abs=1e-6)
    normalised = learned(CENTRES, form="regional", binary=False, query_assignments=1)
    pair = normalised.aggregate_query(QUERY), normalised.aggregate(INDEXED)
    assert score(pair[0], 0, pair[1], 0, normalised) == pytest.approx(0.256, abs=1e-6)
    bits = learned(CENTRES, form="regional").aggregate(INDEXED)
    assert bits.binary
    assert bits.residuals.tolist() == [[192], [64]]


def test_what_becomes_a_row() -> None:
    """The image, the mean over regions, or every region."""
    image = learned(CENTRES, binary=False).aggregate(INDEXED)
    np.testing.assert_allclose(image.residuals, [[0.447214, 0.894427], [-0.707107, 0.707107]], atol=1e-6)
    assert image.rows.tolist() == [0, 0]
    aggregator = learned(CENTRES, form="items", binary=False)
    assert (aggregator.per_region, learned(CENTRES).per_region) == (True, False)
    items = aggregator.aggregate(INDEXED)
    assert (items.rows.tolist(), items.words.tolist()) == ([0, 0, 1], [0, 1, 0])
    np.testing.assert_allclose(items.scales, [0.5**0.5, 1])


def test_boxes_that_were_given_are_an_image_together() -> None:
    """No region is the whole image: the row is that of the box around all of them, which are rows without words."""
    given = described(np.array([[1, 2], [9, 1], [5, 5]]), [(0, 0), (1, 0), (1, 1)], 2, whole=False)
    for form in ("image", "regional"):
        found = learned(CENTRES, form=form, binary=False).aggregate(given)
        assert found.regions.boxes.tolist() == [[0, 0, 95.25, 95.25], [0, 0, 95, 95], [1, 1, 95.25, 95.25]]
        assert set(found.rows.tolist()) == {0}
        assert found.words.tolist() == [0, 1]
    assert len(learned(CENTRES, form="items").aggregate(given)) == 2


def test_places_are_those_of_all_features() -> None:
    found = learned(CENTRES, positions=True).aggregate(INDEXED)
    assert found.places is not None
    assert found.places.words.tolist() == [0, 1]
    assert found.places.codes.tolist() == [[192], [64]]
    np.testing.assert_array_equal(found.places.points, INDEXED.features.points)
    query = learned(CENTRES, positions=True).aggregate_query(QUERY)
    assert query.places is not None
    assert query.places.words.tolist() == [0, 1], "the nearest word of each feature, not all of them"


def test_idf_by_hand() -> None:
    """Word 0 is in both photos, word 1 in one: log(2 / 2) = 0 and log(2 / 1)."""
    aggregator = learned(CENTRES, idf=True, query_assignments=1, binary=False)
    other = described(np.array([[1, 2]]), [(0, 0)], 1)
    assert list(aggregator.fitted_parts()) == ["codebook", "idf"], "in the order in which they learn"
    with pytest.raises(NotFittedError, match="InverseFrequency: expected a fitted part"):
        aggregator.aggregate(INDEXED)
    aggregator.fitted_parts()["idf"].fit(aggregator.samples("idf", [INDEXED, other]), fitted_on="two photos")
    found = aggregator.aggregate(INDEXED)
    np.testing.assert_allclose(found.weights, [0, np.log(2) ** 2], rtol=1e-6)
    np.testing.assert_allclose(found.scales, [1 / np.log(2), 1], rtol=1e-6)
    self_score = score(aggregator.aggregate_query(INDEXED), 0, found, 0, aggregator)
    assert self_score == pytest.approx(1, abs=1e-6)


def test_the_codebook_learns_from_all_features() -> None:
    aggregator = Asmk(words=3)
    aggregator.connect(2)
    rows = aggregator.samples("codebook", [INDEXED, QUERY])
    assert rows.tolist() == [[1, 2], [9, 1], [2, 1], [11, 1]]
    aggregator.fitted_parts()["codebook"].fit(rows, fitted_on="two photos")
    assert aggregator.codebook.array.shape == (3, 2)
    assert aggregator.samples("codebook", []).shape == (0, 2)
    with pytest.raises(NotImplementedError, match="expected no part to be fitted, found 'centres'"):
        aggregator.samples("centres", [INDEXED])


def random_image(rng: np.random.Generator, dim: int) -> RegionFeatures:
    """Up to 4 regions and 8 features, none included; equal features, empty regions."""
    vectors = rng.standard_normal((int(rng.integers(0, 9)), dim)).astype(np.float32)
    if len(vectors) > 2 and rng.random() < 0.5:
        vectors[1] = vectors[0]
    regions = int(rng.integers(0, 5))
    members = [(0, n) for n in range(len(vectors)) if regions] + [
        (r, n) for r in range(1, regions) for n in range(len(vectors)) if rng.random() < 0.4
    ]
    return described(vectors, members, regions)


def expected_words(
    image: RegionFeatures, centres: np.ndarray, settings: Any, form: str, count: int
) -> list[slow.Blocks]:
    """The words of each row, by the equations."""
    of_regions = [
        slow.vlad_blocks(image.features.vectors[image.of_region(r)].tolist(), centres.tolist(), count)
        for r in range(len(image))
    ]
    if form == "image":
        of_regions = of_regions[:1]
    if form == "regional" and of_regions:
        normalised = settings["region_normalised"]
        of_regions = [slow.mean([slow.unit(b) for b in of_regions] if normalised else of_regions)]
    return [slow.asmk_words(blocks, settings["binary"]) for blocks in of_regions]


@pytest.mark.parametrize("form", ["image", "regional", "items"])
@pytest.mark.parametrize("binary", [True, False])
def test_against_the_equations(form: str, binary: bool) -> None:
    """500 random pairs of images each, of words, assignments, thresholds and normalisations of every kind."""
    rng = np.random.default_rng(7)
    scores = 0
    for _ in range(500):
        dim, words = (int(n) for n in rng.integers([1, 2], [7, 6]))
        centres = rng.standard_normal((words, dim)).astype(np.float32)
        settings: dict[str, Any] = {
            "binary": binary,
            "region_normalised": bool(rng.random() < 0.8),
            "assignments": int(rng.integers(1, 3)),
            "query_assignments": int(rng.integers(1, 8)),
            "alpha": float(rng.choice([1, 2, 3])),
            "tau": float(rng.choice([-1, 0, 0.25, 0.5])),
            "tau_inclusive": bool(rng.random() < 0.5) and not binary,
            "idf": bool(rng.random() < 0.3),
            "count_normalised": bool(rng.random() < 0.7),
        }
        aggregator = learned(centres, form=form, **settings)
        idf = rng.uniform(0.1, 2, words).astype(np.float32) if settings["idf"] else None
        if aggregator.idf is not None and idf is not None:
            aggregator.idf.idf.copy_(torch.from_numpy(idf))
            aggregator.idf.count.fill_(1)
        query, indexed = random_image(rng, dim), random_image(rng, dim)
        asked, found = aggregator.aggregate_query(query), aggregator.aggregate(indexed)
        ours = expected_words(query, centres, settings, "items", settings["query_assignments"])
        theirs = expected_words(indexed, centres, settings, form, settings["assignments"])
        assert len(asked) == len(query)
        assert len(found) == len(indexed)
        for (row, first), (other, second) in itertools.product(enumerate(ours), enumerate(theirs)):
            wanted = slow.kernel(
                first,
                second,
                alpha=settings["alpha"],
                tau=settings["tau"],
                inclusive=settings["tau_inclusive"],
                idf=None if idf is None else idf.tolist(),
                normalised=settings["count_normalised"],
            )
            assert score(asked, row, found, other, aggregator) == pytest.approx(wanted, abs=1e-6)
            scores += 1
    assert scores > 500


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"form": "boxes"}, "form: expected one of 'image', 'regional', 'items', found 'boxes'"),
        ({"words": 1}, "words: expected an integer of 2 or more"),
        ({"assignments": 0}, "assignments: expected an integer"),
        ({"query_assignments": 0}, "query_assignments: expected an integer"),
        ({"alpha": -1.0}, "alpha: expected a number from 0"),
        ({"tau": 2.0}, "tau: expected a number from -1 to 1"),
        ({"binary": 1}, "binary: expected true or false"),
        ({"idf": "no"}, "idf: expected true or false"),
        ({"samples": 0}, "samples: expected an integer"),
    ],
)
def test_wrong_settings(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Asmk(**wrong)


def test_a_fresh_one_is_refused() -> None:
    aggregator = Asmk(words=3)
    aggregator.connect(2)
    with pytest.raises(NotFittedError, match="Codebook: expected a fitted part"):
        aggregator.aggregate(INDEXED)
