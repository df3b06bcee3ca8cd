"""Verification on the local features that are stored with visual words, without photos."""

from __future__ import annotations

import numpy as np
import pytest

from objemb.rerank.base import WordSearch, rerank_words
from objemb.rerank.query_expansion import QueryExpansion
from objemb.rerank.spatial_verification import SpatialVerification
from objemb.structures import Match, Regions, SearchResult, VisualWords, WordPlaces

pytest.importorskip("cv2")

DIM = 16
SIZE = (400, 400)


def places(points: np.ndarray, seed: int) -> WordPlaces:
    """A feature in a word of its own at each point; the same seed gives the same signs."""
    bits = np.random.default_rng(seed).integers(0, 2, (len(points), DIM))
    return WordPlaces(np.arange(len(points), dtype=np.int32), points.astype(np.float32), np.packbits(bits, axis=1))


def image(name: str, kept: WordPlaces | None) -> VisualWords:
    nothing = np.zeros(0, np.float32)
    return VisualWords(
        name,
        Regions.whole(SIZE),
        DIM,
        np.zeros(0, np.int64),
        np.zeros(0, np.int32),
        np.zeros((0, 2), np.uint8),
        nothing,
        np.ones(1, np.float32),
        kept,
    )


POINTS = np.random.default_rng(0).uniform(50, 150, (20, 2))
#: Turned, half as large and moved; the query's features; features in the same words anywhere.
THERE = POINTS @ np.array([[0, 0.5], [-0.5, 0]]) + [200, 20]
STORED = {
    "elsewhere": image("elsewhere", places(np.random.default_rng(1).uniform(0, 400, (20, 2)), 7)),
    "other signs": image("other signs", places(THERE, 8)),
    "holds": image("holds", places(THERE, 7)),
}


def searched(box: tuple[float, float, float, float] = (0, 0, 400, 400), kept: WordPlaces | None = None) -> WordSearch:
    whole = (0.0, 0.0, 400.0, 400.0)
    hits = tuple(Match(name, 0.9 - 0.1 * n, whole, box) for n, name in enumerate(STORED))
    query = image("q", places(POINTS, 7) if kept is None else kept)
    return WordSearch((query,), (SearchResult("q", (box,), hits),), STORED.__getitem__)


def test_the_photo_whose_features_agree_comes_first_with_the_box_that_they_cover() -> None:
    (result,) = rerank_words(searched(), [SpatialVerification(tolerance=2)]).results
    assert result[0].image == "holds"
    assert 20 <= result[0].score < 21
    np.testing.assert_allclose(result[0].box, [*THERE.min(axis=0), *THERE.max(axis=0)], atol=1e-4)
    assert [hit.box for hit in result[1:]] == [(0, 0, 400, 400)] * 2, "what does not agree keeps its box"
    assert result.scale == SpatialVerification.scale


def test_features_outside_of_the_query_box_do_not_count() -> None:
    half = POINTS[:, 0] < 100
    (result,) = SpatialVerification(tolerance=2, least=4).rerank_words(searched((0, 0, 100, 400))).results
    assert int(result[0].score) == half.sum()
    # the query box, turned, half as large and moved: x' = 200 - y / 2, y' = 20 + x / 2
    np.testing.assert_allclose(result[0].box, [0, 20, 200, 70], atol=1e-3)


def test_too_few_features() -> None:
    none = WordPlaces(np.zeros(0, np.int32), np.zeros((0, 2), np.float32), np.zeros((0, 2), np.uint8))
    (result,) = SpatialVerification().rerank_words(searched(kept=none)).results
    assert [hit.image for hit in result] == list(STORED), "the old order"
    empty = WordSearch((image("q", none),), (SearchResult("q", (), ()),), STORED.__getitem__)
    assert SpatialVerification().rerank_words(empty).results == empty.results


def test_missing_inputs_are_reported() -> None:
    with pytest.raises(
        ValueError, match=r"expected a query of a single photo with the places of local features .* found none"
    ):
        SpatialVerification().rerank_words(WordSearch((image("q", None),), searched().results, STORED.__getitem__))
    bare = WordSearch(searched().queries, searched().results, lambda name: image(name, None))
    with pytest.raises(ValueError, match="expected an index with the places of local features"):
        SpatialVerification().rerank_words(bare)
    with pytest.raises(
        ValueError, match="such as 'spatial_verification', found 'query_expansion', which takes vectors"
    ):
        rerank_words(searched(), [QueryExpansion()])
    with pytest.raises(ValueError, match="expected one per query"):
        WordSearch((), searched().results, STORED.__getitem__)
