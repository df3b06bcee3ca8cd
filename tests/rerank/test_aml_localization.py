from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from objemb.backbones.base import Backbone
from objemb.describers.pooled_regions import PooledRegions
from objemb.extractors.crop import Crop
from objemb.extractors.map import Map
from objemb.ops.boxes import iou
from objemb.ops.images import as_batch, resize
from objemb.ops.rmac import rmac_cells
from objemb.ops.tensors import l2
from objemb.pooling.max import Max
from objemb.regions.rmac_grid import RmacGrid
from objemb.rerank.aml_localization import AmlLocalization
from tests.rerank.looking import photo, searched
from tests.rerank.made import names, scores

MINIMAL = {"top": 3, "mixed": 1, "size": 64, "levels": 2}
NEEDS_PHOTOS = True


class Colours(Backbone):
    """Cells of 4 x 4 pixels, one channel per colour and one for none."""

    channels, stride, smallest = 4, 4, 4

    def forward(self, pixels: Tensor) -> Tensor:
        cells = torch.nn.functional.avg_pool2d(pixels, 4)
        return torch.cat([cells, 0.1 * torch.ones_like(cells[:, :1])], dim=1)


def painted(id: str, box: tuple[int, int, int, int] | None, colour: int, side: int = 96) -> object:
    pixels = torch.zeros(3, side, side, dtype=torch.uint8)
    pixels[2, :, :] = 30  # a little blue everywhere
    pixels[(colour + 1) % 3, :12, :12] = 200  # something else in the corner
    if box:
        x1, y1, x2, y2 = box
        pixels[colour, y1 : y1 + 12, x1 : x1 + 12] = 255  # nothing but the whole object shows both
        pixels[2, y2 - 12 : y2, x2 - 12 : x2] = 255
    return photo(pixels, id)


def describer() -> PooledRegions:
    return PooledRegions(regions=RmacGrid(), backbone=Colours(), extractor=Map(size=96), pooling=Max())


QUERY = painted("q", (20, 20, 60, 60), 0)
PHOTOS = [painted("green", (10, 30, 50, 70), 1), painted("red", (48, 40, 88, 80), 0), painted("none", None, 0)]


@pytest.mark.parametrize("vector", ["mac", "rmac"])
def test_the_object_is_found_and_where(vector: str) -> None:
    before = searched(describer(), QUERY, (20, 20, 60, 60), PHOTOS)
    after = AmlLocalization(size=96, mixed=0, step=2, vector=vector).rerank(before)
    assert names(after)[0] == "red"
    assert scores(after)[0] > 0.95
    assert float(iou(torch.tensor([after.results[0][0].box]), torch.tensor([[48.0, 40, 88, 80]]))[0, 0]) > 0.5
    assert after.results[0][0].query_box == (20, 20, 60, 60)


@pytest.mark.parametrize("size", [None, 64])
def test_the_grid_lies_on_the_cells_of_the_box(size: int | None) -> None:
    """Cell by cell: a box of 15 cells has squares of 15, 10 and 7 cells, whatever pixels their edges fall on."""
    net = describer()
    before = searched(net, QUERY, (20, 20, 60, 60), PHOTOS)
    side = size or 96
    cell = 96 / side * 4

    def vector(map_: Tensor, box: tuple[int, int, int, int]) -> Tensor:
        x1, y1, x2, y2 = box
        total = torch.zeros(net.dim)
        for left, top, right, bottom in rmac_cells(y2 - y1, x2 - x1, 3).tolist():
            part = map_[:, y1 + top : y1 + bottom, x1 + left : x1 + right].flatten(1)
            total += l2(part.amax(dim=1)[None])[0]
        return l2(total[None])[0]

    cut = torch.as_tensor(QUERY.pixels)[:, 20:60, 20:60]  # enters the network at the scale of its photo
    shape = (round(40 * side / 96), round(40 * side / 96))
    seen = net.backbone(as_batch([resize(cut, shape)], "cpu"))[0]
    asked = vector(seen, (0, 0, seen.shape[2], seen.shape[1]))
    for hit in AmlLocalization(size=size, mixed=0).rerank(before).results[0]:
        found = next(p for p in PHOTOS if p.id == hit.image)
        map_ = net.backbone(as_batch([resize(torch.as_tensor(found.pixels), (side, side))], "cpu"))[0]
        box = tuple(round(v / cell) for v in hit.box)
        assert hit.box == pytest.approx([v * cell for v in box]), "whole cells"
        assert hit.score == pytest.approx(float(vector(map_, box) @ asked), abs=1e-5)  # type: ignore[arg-type]


def test_photos_are_described_as_they_are_indexed() -> None:
    before = searched(describer(), QUERY, (20, 20, 60, 60), PHOTOS)
    own, same = (AmlLocalization(size=size).rerank(before) for size in (None, 96))
    assert [(h.image, h.box, h.score) for h in own.results[0]] == [(h.image, h.box, h.score) for h in same.results[0]]
    crops = PooledRegions(regions=RmacGrid(), backbone=Colours(), extractor=Crop(size=32), pooling=Max())
    with pytest.raises(ValueError, match=r"aml_localization: size: expected the side of maps in pixels, found .* Crop"):
        AmlLocalization().rerank(replace(before, describer=crops))
    assert names(AmlLocalization(size=96).rerank(replace(before, describer=crops)))


def test_query_expansion_mixes_the_best_boxes() -> None:
    before = searched(describer(), QUERY, (20, 20, 60, 60), PHOTOS)
    plain = AmlLocalization(size=96, mixed=0, vector="mac").rerank(before)
    mixed = AmlLocalization(size=96, mixed=1, vector="mac").rerank(before)
    net = describer()
    query = torch.as_tensor(net.describe([QUERY], [before.queries[0].regions])[0].vectors[0])
    vectors = {}
    for hit in plain.results[0]:
        found = next(p for p in PHOTOS if p.id == hit.image)
        regions = type(before.queries[0].regions)(torch.tensor([hit.box]), found.size)
        vectors[hit.image] = torch.as_tensor(net.describe([found], [regions])[0].vectors[0])
    expanded = l2(torch.stack([query, vectors[names(plain)[0]]]).mean(dim=0, keepdim=True))[0]
    for hit in mixed.results[0]:
        assert hit.score == pytest.approx(float(vectors[hit.image] @ expanded), abs=2e-2)


def test_only_the_first_hits_are_localized() -> None:
    before = searched(describer(), QUERY, (20, 20, 60, 60), PHOTOS)
    after = AmlLocalization(top=1, size=96).rerank(before)
    assert names(after) == names(before)
    assert [h.box for h in after.results[0][1:]] == [h.box for h in before.results[0][1:]]


def test_it_needs_a_backbone_and_photos() -> None:
    before = searched(describer(), QUERY, (20, 20, 60, 60), PHOTOS)
    with pytest.raises(ValueError, match="expected the describer"):
        AmlLocalization().rerank(replace(before, describer=None))
    with pytest.raises(ValueError, match="photos can be opened"):
        AmlLocalization().rerank(replace(before, open_query=None))
