from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from objemb import registry
from objemb.describers.base import Describer
from objemb.describers.pooled_regions import PooledRegions
from objemb.evaluation.cost import forward_pass, measure_cost
from objemb.extractors.base import Extractor
from objemb.ops.tensors import l2
from objemb.pooling.base import Pooling
from objemb.regions.base import RegionSource
from objemb.structures import Photo, Regions
from tests.tiny import TinyBackbone, random_photo

PHOTOS = [random_photo(24, 32, seed=n, id=str(n)) for n in range(2)]


def describer(regions: str, extractor: dict[str, Any]) -> PooledRegions:
    return PooledRegions(
        regions=registry.build(RegionSource, {"name": regions}),
        backbone=TinyBackbone(),
        extractor=registry.build(Extractor, extractor),
        pooling=registry.build(Pooling, {"name": "max"}),
    )


@pytest.fixture
def rmac() -> PooledRegions:
    return describer("rmac_grid", {"name": "map", "size": 16})


def run(one: Describer) -> Callable[[Photo], object]:
    return lambda photo: one.describe([photo])


def test_the_forward_pass_is_that_over_the_whole_photo(rmac: PooledRegions) -> None:
    found = forward_pass(rmac, PHOTOS[0])
    assert found is not None
    assert found.network == "backbone, 16 x 12 pixels"
    rmac.backbone.seen.clear()  # type: ignore[operator, union-attr]
    found.run()
    assert [tuple(pixels.shape) for pixels in rmac.backbone.seen] == [(1, 3, 12, 16)]  # type: ignore[union-attr]
    assert not rmac.backbone._forward_pre_hooks


def test_of_crops_it_is_one_crop() -> None:
    found = forward_pass(describer("rmac_grid", {"name": "crop", "size": 20}), PHOTOS[0])
    assert found is not None
    assert found.network == "backbone, 20 x 20 pixels"


@pytest.mark.parametrize("scales", [(0.5, 1.0, 2.0), (1.0, 0.5)])
def test_of_several_scales_it_is_the_size_of_the_extractor(scales: tuple[float, ...]) -> None:
    several = PooledRegions(
        regions=registry.build(RegionSource, {"name": "whole_image"}),
        backbone=TinyBackbone(),
        extractor=registry.build(Extractor, {"name": "map", "size": 16}),
        pooling=registry.build(Pooling, {"name": "max"}),
        scales=scales,
    )
    found = forward_pass(several, PHOTOS[0])
    assert found is not None
    assert found.network == "backbone, 16 x 12 pixels"


def test_times_in_turn(rmac: PooledRegions) -> None:
    found = measure_cost(rmac, PHOTOS, run(rmac), rounds=3)
    assert (found.photos, found.rounds, found.network) == (2, 3, "backbone, 16 x 12 pixels")
    assert found.milliseconds > 0
    assert found.ratio is not None
    assert found.low is not None
    assert found.high is not None
    assert 0 < found.low <= found.ratio <= found.high


def test_without_a_network_there_is_no_ratio(rmac: PooledRegions) -> None:
    class Colours(Describer):
        raw_dim = 3

        def _describe(self, photos: Any, given: Any) -> Any:
            vectors = [l2(torch.as_tensor(photo.pixels).float().mean(dim=(1, 2))[None]) for photo in photos]
            return [Regions.whole(photo.size) for photo in photos], torch.cat(vectors)

    colours = Colours()
    assert forward_pass(colours, PHOTOS[0]) is None
    found = measure_cost(colours, PHOTOS, run(colours), rounds=1)
    assert (found.ratio, found.backbone_milliseconds, found.network) == (None, None, None)
    with pytest.raises(ValueError, match="photos: expected at least one"):
        measure_cost(rmac, [], run(rmac))
    with pytest.raises(ValueError, match="rounds"):
        measure_cost(rmac, PHOTOS, run(rmac), rounds=0)


def test_of_one_pass_it_is_the_pyramid() -> None:
    torch.manual_seed(0)
    settings = {
        "name": "one_pass",
        "detector": {
            "name": "faster_rcnn",
            "backbone": {"name": "narrow_resnet", "width": 4, "blocks": [1, 1, 1, 1]},
            "pyramid_strides": [8, 16],
            "channels": 8,
            "box_width": 8,
            "min_size": 48,
            "max_size": 96,
        },
        "head": {"name": "embedding", "dim": 4, "width": 8, "depth": 1, "samples": 2},
    }
    found = forward_pass(registry.build(Describer, settings).eval(), PHOTOS[0])
    assert found is not None
    assert found.network.startswith("detector's pyramid, ")
    with torch.inference_mode():
        found.run()
