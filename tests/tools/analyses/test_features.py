from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from objemb.backbones.narrow_resnet import NarrowResnet
from objemb.cli.programs.analyses.features import POOLINGS, FeatureView, RegionRequest, describe_layers
from objemb.cli.programs.analyses.trunks import Trunk
from objemb.images.sources import ImageRef, SkippedImage
from objemb.ops.rmac import rmac_cells
from objemb.ops.tensors import l2
from objemb.structures import Photo, Regions


@pytest.fixture
def refs(tmp_path: Path) -> list[ImageRef]:
    random = torch.Generator().manual_seed(0)
    for name in ("a.png", "b.png"):
        pixels = torch.randint(256, (64, 96, 3), generator=random, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / name)
    return [ImageRef(name, tmp_path / name) for name in ("a.png", "b.png", "gone.png")]


class Counting(NarrowResnet):
    def __init__(self) -> None:
        super().__init__(width=4, blocks=[1, 1, 1, 1], stride=32)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        self.passes = getattr(self, "passes", 0) + 1
        return super().forward(pixels)


def requests(photo: Photo) -> list[RegionRequest]:
    number = "ab".index(photo.id[0])
    whole = Regions.whole(photo.size).boxes
    box = np.array([[8, 0, 40, 64], [90, 60, 91, 61]], np.float32)
    return [
        RegionRequest(1 - number, "whole", whole),
        RegionRequest(1 - number, "grid", whole, grid=True),
        RegionRequest(5 + number, "box", box if number else box[:0]),
    ]


def test_all_views_from_one_pass_a_photo(refs: list[ImageRef]) -> None:
    network = Counting()
    trunk = Trunk(network)
    network.passes = 0
    views = [FeatureView(n, k, p) for n in ("conv2_1", "conv5_1") for k in ("whole", "grid", "box") for p in POOLINGS]
    skipped: list[SkippedImage] = []
    described = describe_layers(trunk, refs, requests, views, size=96, workers=0, on_skip=skipped.append)
    assert network.passes == 2
    assert [s.id for s in skipped] == ["gone.png"]
    assert list(described) == views
    pixels = _pixels(refs[1].path)
    with torch.no_grad():
        maps = network.maps(pixels[None].float() / 255)
    for layer, stride in (("conv2_1", 4), ("conv5_1", 32)):
        height, width = maps[stride].shape[2:]
        squares = rmac_cells(height, width).tolist()
        for name, pooling in POOLINGS.items():
            whole = described[FeatureView(layer, "whole", name)]
            assert sorted(whole) == [0, 1]
            assert (whole[0].image, whole[1].image) == ("b.png", "a.png")
            np.testing.assert_allclose(whole[0].vectors, l2(pooling(maps[stride])), atol=1e-5)
            cuts = [maps[stride][:, :, y1:y2, x1:x2] for x1, y1, x2, y2 in [[0, 0, width, height], *squares]]
            grid = described[FeatureView(layer, "grid", name)][0]
            np.testing.assert_allclose(grid.vectors, l2(torch.cat([pooling(cut) for cut in cuts])), atol=1e-5)
            assert [len(described[FeatureView(layer, "box", name)][item]) for item in (5, 6)] == [0, 2]
    # cell j looks around pixel 4 j: from 4 j - 1.5 on, so that pixels 8 to 40 are in cells 2 to 10
    first = l2(POOLINGS["mean"](maps[4][:, :, :, 2:11]))
    box = described[FeatureView("conv2_1", "box", "mean")][6]
    np.testing.assert_allclose(box.vectors[:1], first, atol=1e-5)
    assert box.regions.boxes[0].tolist() == [6.5, 0, 42.5, 62.5]


def _pixels(path: Path) -> torch.Tensor:
    with Image.open(path) as image:
        values = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(image.height, image.width, 3)
    return values.permute(2, 0, 1)


def test_views_of_which_there_is_nothing(refs: list[ImageRef]) -> None:
    view = FeatureView("conv3_1", "whole", "max")
    assert describe_layers(Trunk(Counting()), refs[2:], requests, [view], size=96, workers=0) == {view: {}}
