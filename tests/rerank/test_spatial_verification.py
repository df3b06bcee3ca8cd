from __future__ import annotations

import pytest
import torch

from objemb.describers.pooled_regions import PooledRegions
from objemb.extractors.map import Map
from objemb.ops.boxes import iou
from objemb.pooling.mean import Mean
from objemb.regions.whole_image import WholeImage
from objemb.rerank.spatial_verification import SpatialVerification
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
