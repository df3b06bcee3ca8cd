from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from objemb.describers.pooled_regions import PooledRegions
from objemb.extractors.map import Map
from objemb.ops.grid import Grid
from objemb.pooling.max import Max
from objemb.regions.base import RegionSource
from objemb.regions.whole_image import WholeImage
from objemb.rerank.region_rerank import RegionRerank
from objemb.structures import Photo, Regions
from tests.rerank.looking import searched
from tests.rerank.made import names, scores
from tests.rerank.test_aml_localization import PHOTOS, QUERY, Colours
from tests.small_settings import FASTER

MINIMAL = {
    "top": 3,
    "regions": {"name": "rpn_proposals", "detector": {"name": "faster_rcnn", **FASTER}},
}
NEEDS_PHOTOS = True


class Quarters(RegionSource):
    """The whole photo, and boxes of 48 pixels in steps of 24; says how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def find(self, photos: Sequence[Photo], grids: Sequence[Grid] | None = None) -> list[Regions]:
        self.asked += [p.id for p in photos]
        boxes = [[0.0, 0, 96, 96]] + [[x, y, x + 40, y + 40] for x in range(0, 57, 8) for y in range(0, 57, 8)]
        return [Regions(torch.tensor(boxes), p.size) for p in photos]


def describer() -> PooledRegions:
    return PooledRegions(regions=WholeImage(), backbone=Colours(), extractor=Map(size=96), pooling=Max())


def test_the_best_proposal_is_the_score_and_the_box() -> None:
    before = searched(describer(), QUERY, (20, 20, 60, 60), PHOTOS)
    source = Quarters()
    after = RegionRerank(mixed=0, regions=source).rerank(before)
    assert names(after)[0] == "red"
    for hit in after.results[0]:
        found = next(p for p in PHOTOS if p.id == hit.image)
        (regions,) = source.find([found])
        rows = describer().describe([found], [regions])[0].vectors
        products = rows @ before.queries[0].vectors[0]
        assert hit.score == pytest.approx(float(products.max()), abs=1e-6)
        assert list(hit.box) == regions.boxes[int(products.argmax())].tolist()


def test_each_photo_is_looked_at_once() -> None:
    one = searched(describer(), QUERY, (20, 20, 60, 60), PHOTOS)
    several = type(one)(one.queries * 3, one.results * 3, one.database, one.describer, lambda _: QUERY)
    source = Quarters()
    found = RegionRerank(regions=source).rerank(several)
    assert sorted(source.asked) == sorted(p.id for p in PHOTOS)
    assert names(found, 0) == names(found, 2)


def test_expansion_keeps_the_falling_order() -> None:
    after = RegionRerank(mixed=2, regions=Quarters()).rerank(searched(describer(), QUERY, (20, 20, 60, 60), PHOTOS))
    assert scores(after) == sorted(scores(after), reverse=True)
    assert names(after)[0] == "red"


def test_it_needs_proposals() -> None:
    with pytest.raises(ValueError, match=r"region_rerank: expected regions, such as .* found PooledRegions without"):
        RegionRerank().rerank(searched(describer(), QUERY, (20, 20, 60, 60), PHOTOS))
