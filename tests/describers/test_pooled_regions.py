from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from objemb.aggregators.sum import Sum
from objemb.checks import NotFittedError
from objemb.describers.pooled_regions import PooledRegions
from objemb.extractors.base import Extractor
from objemb.extractors.crop import Crop
from objemb.extractors.map import Map
from objemb.extractors.pyramid import Pyramid
from objemb.layers.whitening import Whitening
from objemb.ops.grid import Grid
from objemb.ops.images import as_batch, resize
from objemb.ops.rmac import rmac_cells
from objemb.ops.tensors import l2
from objemb.pooling.gem import Gem
from objemb.pooling.max import Max
from objemb.pooling.mean import Mean
from objemb.pooling.netvlad import NetVlad
from objemb.pooling.triangulation import Triangulation
from objemb.regions.rmac_grid import RmacGrid
from objemb.regions.whole_image import WholeImage
from objemb.structures import Photo, Regions
from tests.tiny import TinyBackbone, random_photo


def minimal(_: Path) -> dict[str, Any]:
    return {"regions": RmacGrid(), "backbone": TinyBackbone(), "extractor": Map(size=64), "pooling": Mean()}


EXTRACTORS = {
    "map cells": Map(size=64),
    "map aligned": Map(size=64, sampling="aligned"),
    "pyramid": Pyramid(sizes=[32, 64, 128], target=20),
    "crop squash": Crop(size=32, batch=3),
    "crop pad": Crop(size=32, fit="pad", batch=3),
    "crop keep": Crop(size=33, fit="keep", batch=3),
}
PHOTOS = [
    random_photo(60, 80, id="a"),
    random_photo(80, 60, seed=1, id="b"),
    random_photo(1, 2000, seed=2, id="strip"),
    random_photo(1, 1, seed=3, id="pixel"),
    random_photo(30, 40, seed=4, id="scaled", size=(301, 400)),
    random_photo(60, 80, seed=5, id="c"),
]


def describer(extractor: Extractor, **arguments: Any) -> PooledRegions:
    parts = {"regions": RmacGrid(), "backbone": TinyBackbone(stride=8, rounds="up"), "pooling": Max()}
    return PooledRegions(extractor=extractor, **(parts | arguments))


@pytest.mark.parametrize("extractor", EXTRACTORS.values(), ids=EXTRACTORS.keys())
@pytest.mark.parametrize("pooling", [Max(), Mean(), Gem()], ids=["max", "mean", "gem"])
def test_alone_or_in_a_batch(extractor: Extractor, pooling: Max | Mean | Gem) -> None:
    model = describer(extractor, pooling=pooling)
    together = model.describe(PHOTOS)
    for photo, found in zip(PHOTOS, together, strict=True):
        (alone,) = model.describe([photo])
        assert found.image == photo.id
        assert found.metadata == photo.metadata
        assert found.regions.boxes[0].tolist() == [0, 0, photo.size[1], photo.size[0]]
        assert torch.equal(torch.as_tensor(found.regions.boxes), torch.as_tensor(alone.regions.boxes))
        assert found.vectors.dtype == np.float32
        assert (torch.as_tensor(found.vectors) - torch.as_tensor(alone.vectors)).abs().max() < 1e-5
        lengths = torch.as_tensor(found.vectors).norm(dim=1)
        assert ((lengths - 1).abs() < 1e-5).logical_or(lengths == 0).all()


@pytest.mark.parametrize("extractor", EXTRACTORS.values(), ids=EXTRACTORS.keys())
def test_given_regions_are_described_as_given(extractor: Extractor) -> None:
    given = [
        Regions(torch.tensor([[3.0, 4, 50, 40], [7, 7, 7, 7], [80, 60, 80, 60], [0, 0, 1, 1]]), PHOTOS[0].size),
        None,
        Regions.empty(PHOTOS[2].size),
    ]
    model = describer(extractor)
    first, second, third = model.describe(PHOTOS[:3], given)
    assert torch.equal(torch.as_tensor(first.regions.boxes), torch.as_tensor(given[0].boxes))
    assert first.vectors.shape == (4, 5)
    assert (torch.as_tensor(first.vectors).norm(dim=1) > 0.99).all()
    assert len(second) > 1
    assert torch.allclose(
        torch.as_tensor(second.vectors), torch.as_tensor(model.describe(PHOTOS[1:2])[0].vectors), atol=1e-5
    )
    assert third.vectors.shape == (0, 5)


def test_only_photos_without_regions_are_searched() -> None:
    asked = []

    class Source(WholeImage):
        def find(self, photos: Sequence[Photo], grids: Sequence[Grid] | None = None) -> list[Regions]:
            asked.extend(p.id for p in photos)
            return super().find(photos, grids)

    source = Source()
    whole = [Regions.whole(p.size) for p in PHOTOS[:3]]
    model = describer(Map(size=64), regions=source)
    model.describe(PHOTOS[:3], [whole[0], None, whole[2]])
    model.describe(PHOTOS[:3], whole)
    assert asked == ["b"]


def rmac_by_hand(photo: Photo, net: TinyBackbone, side: int, whitening: Whitening) -> Tensor:
    """R-MAC as published, one region after the other."""
    factor = side / max(photo.size)
    height, width = (math.floor(s * factor + 0.5) for s in photo.size)
    features = net(as_batch([resize(torch.as_tensor(photo.pixels), (height, width))], "cpu"))[0]
    total = torch.zeros(whitening.dim)
    for x1, y1, x2, y2 in rmac_cells(features.shape[1], features.shape[2]).tolist():
        vector = features[:, y1:y2, x1:x2].amax(dim=2).amax(dim=1)
        vector = vector / vector.norm()
        vector = whitening.projection @ (vector - whitening.mean)
        total += vector / vector.norm()
    return total / total.norm()


def test_rmac_against_the_paper() -> None:
    photos = [random_photo(90, 120), random_photo(77, 133, seed=1), random_photo(140, 61, seed=2)]
    model = describer(Map(size=128), backbone=TinyBackbone(stride=8, channels=16))
    regions = torch.cat(
        [torch.as_tensor(d.vectors)[1:] for d in model.describe([random_photo(100, 100, seed=s) for s in range(9)])]
    )
    model.whitening = Whitening.fit(regions, 10, fitted_on="regions of noise")
    assert model.dim == 10
    for photo, described in zip(photos, model.describe(photos), strict=True):
        expected = rmac_by_hand(photo, model.backbone, 128, model.whitening)
        assert (torch.as_tensor(Sum().aggregate(described).vectors)[0] - expected).abs().max() < 1e-5


@pytest.mark.parametrize(("fusion", "power"), [("mean", 1.0), ("power", 3.0)])
def test_scales_are_fused(fusion: str, power: float) -> None:
    photo = PHOTOS[0]
    regions = Regions(torch.tensor([[0.0, 0, 80, 60], [10, 10, 60, 50]]), photo.size)
    single = [torch.as_tensor(describer(Map(size=64 * s)).describe([photo], [regions])[0].vectors) for s in (1, 2)]
    fused = describer(Map(size=64), scales=[1.0, 2.0], fusion=fusion, fusion_power=power)
    expected = l2(((single[0] ** power + single[1] ** power) / 2) ** (1 / power))
    assert torch.allclose(torch.as_tensor(fused.describe([photo], [regions])[0].vectors), expected, atol=1e-5)
    assert fused.decode_side() == 128


def test_scales_share_the_regions_of_the_first() -> None:
    one = describer(Map(size=64)).describe(PHOTOS[:1])[0]
    two = describer(Map(size=64), scales=[1.0, 0.5]).describe(PHOTOS[:1])[0]
    assert torch.equal(torch.as_tensor(one.regions.boxes), torch.as_tensor(two.regions.boxes))


def test_no_photos() -> None:
    assert describer(Map()).describe([]) == []


def test_never_in_training_mode_and_without_gradients() -> None:
    model = describer(Map(size=64)).train()
    assert not any(m.training for m in model.modules())
    vectors = torch.as_tensor(model.describe(PHOTOS[:1])[0].vectors)
    target = torch.nn.Parameter(torch.ones(5))
    (vectors * target).sum().backward()  # vectors serve as targets of a loss
    assert target.grad is not None


def test_whitening_is_part_of_the_state() -> None:
    model = describer(Map(size=64))
    assert model.dim == 5
    model.whitening = Whitening(input_dim=5, dim=3, power=0.5, fitted_on="nothing", count=0)
    assert {"whitening.mean", "whitening.projection", "backbone.weight"} <= set(model.state_dict())
    assert model.dim == 3


def test_decode_side() -> None:
    assert describer(Crop()).decode_side() is None
    assert describer(Map(size=100), scales=[0.5]).decode_side() == 50


def test_a_detector_may_need_more_pixels_than_the_backbone() -> None:
    class Detecting(WholeImage):
        def decode_side(self) -> int:
            return 80

    assert describer(Map(size=64), regions=Detecting()).decode_side() == 80
    assert describer(Map(size=64), regions=Detecting(), scales=[1.0, 2.0]).decode_side() == 128
    assert describer(Crop(), regions=Detecting()).decode_side() is None


def test_refuses_nonsense() -> None:
    model = describer(Map(size=64))
    with pytest.raises(ValueError, match=r"regions: expected one per photo \(2\), found 1"):
        model.describe(PHOTOS[:2], [None])
    with pytest.raises(ValueError, match=r"regions of 'a': expected the image size \(60, 80\), found \(4, 5\)"):
        model.describe(PHOTOS[:1], [Regions.whole((4, 5))])
    with pytest.raises(ValueError, match="fusion: expected one of 'mean', 'power', found 'sum'"):
        describer(Map(), fusion="sum")
    with pytest.raises(ValueError, match="scales: expected a list of at least one item, found"):
        describer(Map(), scales=[])


@pytest.mark.parametrize("extractor", EXTRACTORS.values(), ids=EXTRACTORS.keys())
def test_local_features_are_what_regions_are_pooled_from(extractor: Extractor) -> None:
    photos = [random_photo(80, 60), random_photo(64, 64, seed=1), random_photo(50, 90, seed=2)]
    regions = [
        Regions(torch.tensor([[10.0, 10, 40, 70]]), photos[0].size),
        Regions.empty(photos[1].size),
        Regions(torch.tensor([[3.0, 3, 3, 3]]), photos[2].size),
    ]
    seen = extractor.extract(photos, TinyBackbone(stride=8, rounds="up"))
    features = seen.local_features(regions, Mean())
    assert [f.shape[1] for f in features] == [5, 5, 5]
    assert len(features[1]) == 0
    assert len(features[2]) >= 1, "one cell at least, as when pooling"
    sampling = getattr(extractor, "sampling", None)
    if sampling is None or sampling.kind == "cells":
        for found, pooled in zip(features, seen.pool(regions, Mean()), strict=True):
            assert torch.allclose(found.mean(dim=0).expand(pooled.shape), pooled, atol=1e-5)


def test_a_cell_under_several_regions_counts_once() -> None:
    photo = random_photo(64, 64)
    regions = Regions(torch.tensor([[0.0, 0, 32, 32], [16, 16, 48, 48], [0, 0, 32, 32]]), photo.size)
    (features,) = Map(size=64).extract([photo], TinyBackbone(stride=8)).local_features([regions], Mean())
    assert len(features) == 2 * 16 - 4


@pytest.mark.parametrize("mask", ["max", "sum"])
def test_a_pooling_learns_from_the_cells_that_it_selects(mask: str) -> None:
    """Cell by cell: what holds a maximum of a channel in the region, or has more than the median of sums there."""
    backbone, photo = TinyBackbone(stride=8), random_photo(64, 64)
    pooling = Triangulation(dim=2, words=2, dropped=0, mask=mask)
    model = describer(Map(size=64), backbone=backbone, pooling=pooling)
    regions = Regions(torch.tensor([[0.0, 0, 32, 32], [16, 16, 48, 48]]), photo.size)
    map_ = backbone(torch.as_tensor(photo.pixels)[None] / 255)[0].detach()
    wanted = set()
    for top, left in ((0, 0), (2, 2)):
        places = [(y, x) for y in range(top, top + 4) for x in range(left, left + 4)]
        if mask == "max":
            wanted |= {max(places, key=lambda at, c=c: float(map_[c, *at])) for c in range(5)}
        else:
            sums = {at: float(map_[:, *at].sum()) for at in places}
            wanted |= {at for at in places if sums[at] >= (sorted(sums.values())[7] + sorted(sums.values())[8]) / 2}
    found = model.samples("pooling", [photo], [regions])
    assert {tuple(row.tolist()) for row in found} == {tuple(map_[:, *at].tolist()) for at in wanted}
    crop = describer(Crop(size=64), backbone=backbone, pooling=Triangulation(dim=2, words=2, dropped=0, mask=mask))
    (cut,) = crop.extractor.extract([photo], backbone).local_features([Regions.whole(photo.size)], crop.pooling)
    (whole,) = model.extractor.extract([photo], backbone).local_features([Regions.whole(photo.size)], pooling)
    assert torch.equal(cut, whole), "a photo that is cut out whole is the same map"


def test_samples_of_all_scales_for_the_pooling_alone() -> None:
    model = describer(Map(size=64), scales=[1.0, 0.5], backbone=TinyBackbone(stride=8))
    photos = [random_photo(64, 64), random_photo(64, 64, seed=1)]
    assert model.samples("pooling", photos).shape == (2 * (64 + 16), 5)
    quarter = Regions(torch.tensor([[0.0, 0, 32, 32]]), (64, 64))
    assert model.samples("pooling", photos, [quarter, None]).shape == (16 + 4 + 64 + 16, 5)
    assert model.samples("pooling", []).shape == (0, 5)
    with pytest.raises(
        NotImplementedError, match="pooled_regions: expected no part to be fitted on vectors, found 're"
    ):
        model.samples("regions", photos)
    assert model.fitted_parts() == {}


def test_a_pooling_is_given_the_channels() -> None:
    model = describer(Map(size=64), pooling=NetVlad(clusters=3))
    assert model.dim == 15
    assert list(model.fitted_parts()) == ["pooling"]
    with pytest.raises(NotFittedError, match="netvlad: expected a fitted part"):
        model.describe([random_photo(64, 64)])
