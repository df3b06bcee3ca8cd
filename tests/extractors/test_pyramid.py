from __future__ import annotations

import pytest
import torch

from objemb.extractors.map import Map
from objemb.extractors.pyramid import Pyramid
from objemb.pooling.max import Max
from objemb.structures import Regions
from tests.tiny import TinyBackbone, random_photo

MINIMAL = {"sizes": [32, 64], "target": 20}


def test_levels_bring_boxes_near_the_target() -> None:
    pyramid = Pyramid(sizes=[400, 100, 200], target=40)
    regions = Regions(
        torch.tensor(
            [
                [0.0, 0.0, 100.0, 100.0],  # 100 x 100 pixels: 50 of them at size 100 of 200
                [0.0, 0.0, 40.0, 40.0],
                [0.0, 0.0, 40.0, 10.0],  # 20 x 20 in area: 40 of them at size 400
                [5.0, 5.0, 5.0, 5.0],
            ]
        ),
        (150, 200),
    )
    assert pyramid.sizes == (100, 200, 400)
    assert pyramid.levels(regions).tolist() == [0, 1, 2, 2]


def test_each_region_is_pooled_from_its_scale() -> None:
    photos = [random_photo(150, 200), random_photo(90, 70, seed=1)]
    pyramid = Pyramid(sizes=[64, 128, 256], target=40)
    regions = [
        Regions(torch.tensor([[0.0, 0, 20, 20], [0, 0, 200, 150], [50, 50, 120, 110], [7, 7, 8, 8]]), photos[0].size),
        Regions(torch.tensor([[0.0, 0, 70, 90], [3, 3, 30, 40]]), photos[1].size),
    ]
    found = pyramid.extract(photos, TinyBackbone()).pool(regions, Max())
    for photo, of_photo, vectors in zip(photos, regions, found, strict=True):
        for i, level in enumerate(pyramid.levels(of_photo).tolist()):
            alone = Map(size=pyramid.sizes[level]).extract([photo], TinyBackbone()).pool([of_photo[i]], Max())[0]
            assert torch.allclose(vectors[i : i + 1], alone, atol=1e-6)


def test_only_needed_scales_are_computed() -> None:
    photo = random_photo(150, 200)
    net = TinyBackbone()
    seen = Pyramid(sizes=[64, 128, 256], target=40).extract([photo], net)
    assert not net.seen
    seen.pool([Regions.whole(photo.size)], Max())
    assert [tuple(x.shape[2:]) for x in net.seen] == [(48, 64)]


def test_scale_keeps_the_levels() -> None:
    photo = random_photo(150, 200)
    net = TinyBackbone()
    Pyramid(sizes=[64, 128, 256], target=40).extract([photo], net, 0.5).pool([Regions.whole(photo.size)], Max())
    assert [tuple(x.shape[2:]) for x in net.seen] == [(24, 32)]


def test_decode_side_is_the_largest_scale() -> None:
    assert Pyramid(sizes=[512, 256]).decode_side() == 512


def test_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="sizes: expected a list of at least one item, found"):
        Pyramid(sizes=[])
    with pytest.raises(ValueError, match="sizes: expected a number above 0, found -1"):
        Pyramid(sizes=[-1])
