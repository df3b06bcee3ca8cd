from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from objemb.backbones.narrow_resnet import NarrowResnet
from objemb.cli.programs.analyses.features import POOLINGS, LayerRows, View, Wanted, describe_layers
from objemb.cli.programs.analyses.trunks import Trunk
from objemb.images.sources import ImageRef, SkippedImage
from objemb.ops.normalize import l2
from objemb.ops.rmac import rmac_cells
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


def wanted(photo: Photo) -> list[Wanted]:
    number = "ab".index(photo.id[0])
    whole = torch.as_tensor(Regions.whole(photo.size).boxes)
    box = torch.tensor([[8.0, 0, 40, 64], [90, 60, 91, 61]])
    return [
        Wanted(1 - number, "whole", whole),
        Wanted(1 - number, "grid", whole, grid=True),
        Wanted(5, "box", box if number else box[:0]),
    ]


def test_all_views_from_one_pass_a_photo(refs: list[ImageRef]) -> None:
    network = Counting()
    trunk = Trunk(network)
    network.passes = 0
    views = [View(n, k, p) for n in ("conv2_1", "conv5_1") for k in ("whole", "grid", "box") for p in POOLINGS]
    skipped: list[SkippedImage] = []
    rows = describe_layers(trunk, refs, wanted, views, size=96, workers=0, on_skip=skipped.append)
    assert network.passes == 2
    assert [s.id for s in skipped] == ["gone.png"]
    assert list(rows) == views
    pixels = _pixels(refs[1].path)
    with torch.no_grad():
        maps = network.maps(pixels[None].float() / 255)
    for layer, stride in (("conv2_1", 4), ("conv5_1", 32)):
        height, width = maps[stride].shape[2:]
        squares = rmac_cells(height, width).tolist()
        for name, pooling in POOLINGS.items():
            whole = rows[View(layer, "whole", name)]
            assert whole.items.tolist() == [0, 1], "sorted by item"
            assert torch.allclose(torch.as_tensor(whole.vectors)[0], l2(pooling(maps[stride]))[0], atol=1e-5)
            cuts = [maps[stride][:, :, y1:y2, x1:x2] for x1, y1, x2, y2 in [[0, 0, width, height], *squares]]
            grid = rows[View(layer, "grid", name)].of(range(1))
            assert torch.allclose(
                torch.as_tensor(grid.vectors), l2(torch.cat([pooling(cut) for cut in cuts])), atol=1e-5
            )
            assert rows[View(layer, "box", name)].items.tolist() == [5, 5]
    # cell j looks around pixel 4 j: from 4 j - 1.5 on, so that pixels 8 to 40 are in cells 2 to 10
    first = l2(POOLINGS["mean"](maps[4][:, :, :, 2:11]))
    assert torch.allclose(torch.as_tensor(rows[View("conv2_1", "box", "mean")].vectors)[:1], first, atol=1e-5)


def _pixels(path: Path) -> torch.Tensor:
    with Image.open(path) as image:
        values = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(image.height, image.width, 3)
    return values.permute(2, 0, 1)


def test_views_of_which_there_is_nothing(refs: list[ImageRef]) -> None:
    rows = describe_layers(Trunk(Counting()), refs[2:], wanted, [View("conv3_1", "whole", "max")], size=96, workers=0)
    assert rows[View("conv3_1", "whole", "max")].vectors.shape == (0, 8)


def test_rows_of_some_items() -> None:
    rows = LayerRows(torch.arange(4.0)[:, None], torch.tensor([0, 1, 1, 3]))
    part = rows.of(range(1, 3))
    assert (part.items.tolist(), part.vectors.flatten().tolist()) == ([0, 0], [1.0, 2.0])
