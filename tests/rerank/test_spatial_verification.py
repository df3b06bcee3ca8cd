from __future__ import annotations

import numpy as np
import pytest
import torch

from objemb.describers.pooled_regions import PooledRegions
from objemb.extractors.map import Map
from objemb.ops.boxes import iou
from objemb.pooling.mean import Mean
from objemb.regions.whole_image import WholeImage
from objemb.rerank.base import WordSearch
from objemb.rerank.spatial_verification import SpatialVerification
from objemb.structures import Box, Match, Regions, SearchResult, VisualWords, WordPlaces
from tests.rerank.looking import blobs, photo, searched
from tests.rerank.made import names, scores
from tests.tiny import TinyBackbone

pytest.importorskip("cv2")

MINIMAL = {"top": 3, "features": 20}
NEEDS_PHOTOS = True


def describer() -> PooledRegions:
    torch.manual_seed(0)
    return PooledRegions(regions=WholeImage(), backbone=TinyBackbone(), extractor=Map(size=64), pooling=Mean())


def test_the_photo_that_holds_the_object_comes_first_with_its_box() -> None:
    query = photo(blobs(1), "q")
    holds = blobs(2, 240)
    holds[:, 90:190, 30:130] = torch.as_tensor(query.pixels)[:, 20:120, 40:140]
    photos = [photo(blobs(3), "a"), photo(holds, "holds"), photo(blobs(4), "b")]
    before = searched(describer(), query, (40, 20, 140, 120), photos)
    after = SpatialVerification().rerank(before)
    assert names(after)[0] == "holds"
    assert scores(after)[0] >= 8
    box = torch.tensor([after.results[0][0].box])
    assert float(iou(box, torch.tensor([[30.0, 90, 130, 190]]))[0, 0]) > 0.9
    others = [(hit.image, hit.box) for hit in before.results[0] if hit.image != "holds"]
    assert [(hit.image, hit.box) for hit in after.results[0][1:]] == others, "what agrees on nothing keeps its order"


def test_features_outside_of_the_query_box_do_not_count() -> None:
    query = photo(blobs(1), "q")
    other = blobs(2)
    other[:, :70, :70] = torch.as_tensor(query.pixels)[:, :70, :70]
    before = searched(describer(), query, (90, 90, 160, 160), [photo(other, "corner"), photo(blobs(3), "a")])
    found = {hit.image: hit.score for hit in SpatialVerification().rerank(before).results[0]}
    assert found["corner"] < 8


def test_only_the_first_are_verified() -> None:
    before = searched(describer(), photo(blobs(1), "q"), (0, 0, 160, 160), [photo(blobs(n), str(n)) for n in (1, 2, 3)])
    last = names(before)[-1]
    assert names(SpatialVerification(top=2).rerank(before))[-1] == last


def test_flat_photos() -> None:
    flat = torch.zeros(3, 50, 50, dtype=torch.uint8)
    before = searched(describer(), photo(flat, "q"), (0, 0, 50, 50), [photo(flat, "a"), photo(flat, "b")])
    assert names(SpatialVerification().rerank(before)) == names(before)
    with pytest.raises(ValueError, match="least: expected"):
        SpatialVerification(least=2)


def words(image: str, points: np.ndarray, size: tuple[int, int] = (200, 300)) -> VisualWords:
    """A photo whose feature n is in word n; residuals of four signs of one."""
    numbers = np.arange(len(points), dtype=np.int32)
    regions = Regions([[0, 0, size[1], size[0]], [100, 50, 200, 150]], size)
    return VisualWords(
        image,
        regions,
        8,
        np.zeros(len(points), np.int64),
        numbers,
        np.full((len(points), 1), 0b11110000, np.uint8),
        np.ones(len(points), np.float32),
        np.ones(2, np.float32),
        WordPlaces(numbers, points.astype(np.float32), np.full((len(points), 1), 0b11110000, np.uint8)),
    )


def verified_words(count: int, box: Box, query_box: Box = (10, 10, 50, 50)) -> SearchResult:
    """A query box whose features are, moved by (80, 20) and twice as large, ``count`` of those of photo "same", which
    a photo without a feature in common precedes."""
    places = np.random.default_rng(0).uniform(0, 40, (count, 2))
    query = words("q", np.concatenate([places + 10, [[250.0, 150.0]]]))
    stored = {"same": words("same", 2 * (places + 10) + (80, 20)), "other": words("other", np.zeros((0, 2)))}
    whole = (0.0, 0.0, 300.0, 200.0)
    hits = (Match("other", 0.9, whole, query_box), Match("same", 0.5, box, query_box, label="cup"))
    result = SearchResult("q", (query_box,), hits, "match kernel of visual words")
    return SpatialVerification(least=6).rerank_words(WordSearch((query,), (result,), stored.__getitem__)).results[0]


def test_features_in_the_same_word_that_agree() -> None:
    first, second = verified_words(6, (0, 0, 300, 200))
    assert (first.image, first.score) == ("same", 6)
    np.testing.assert_allclose(first.box, (100, 40, 180, 120), atol=0.01)  # where the map takes the query box
    assert (second.image, second.score) == ("other", 0.5)


def test_where_the_features_of_a_whole_photo_are() -> None:
    first = verified_words(6, (0, 0, 300, 200), (0, 0, 300, 200))[0]
    places = 2 * (np.random.default_rng(0).uniform(0, 40, (6, 2)) + 10) + (80, 20)
    np.testing.assert_allclose(first.box, [*places.min(axis=0), *places.max(axis=0)], atol=0.01)


def test_a_box_that_words_have_found_stays() -> None:
    first = verified_words(6, (100, 50, 200, 150))[0]
    assert (first.image, first.score, first.box, first.label) == ("same", 6, (100, 50, 200, 150), "cup")


def test_few_features_in_the_same_word_agree_by_chance() -> None:
    result = verified_words(5, (0, 0, 300, 200))
    assert [(hit.image, hit.score) for hit in result] == [("other", 0.5), ("same", 0)]
    assert result[1].box == (0, 0, 300, 200)
