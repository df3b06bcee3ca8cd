"""What ``map`` and ``pyramid`` share, through ``map``."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from objemb.extractors._maps import BLOCK, Sampling
from objemb.extractors.map import Map
from objemb.ops.boxes import clip
from objemb.ops.images import as_batch, resize
from objemb.ops.rmac import rmac_cells
from objemb.pooling.max import Max
from objemb.pooling.mean import Mean
from objemb.regions.rmac_grid import RmacGrid
from objemb.structures import Photo, Regions
from tests.tiny import TinyBackbone, random_photo


def boxes(size: tuple[int, int], *rows: tuple[float, ...], masks: Tensor | None = None) -> Regions:
    return Regions(torch.tensor(rows).reshape(-1, 4), size, extras={} if masks is None else {"masks": masks})


@pytest.mark.parametrize("offset", [0.0, -1.5])
@pytest.mark.parametrize("rounds", ["up", "down"])
@pytest.mark.parametrize("size", [(37, 50), (64, 64), (100, 31), (23, 190), (480, 641)])
def test_a_grid_on_the_map_comes_back_as_the_same_cells(offset: float, rounds: str, size: tuple[int, int]) -> None:
    net = TinyBackbone(stride=4, rounds=rounds)
    net.offset = offset
    photo = random_photo(*size)
    for side in (40, 57, 83):
        seen = Map(size=side).extract([photo], net)
        grid = seen.grids[0]
        cells = torch.tensor([(x, y, x + 1.0, y + 1.0) for y in range(grid.height) for x in range(grid.width)])
        regions = Regions(clip(grid.to_pixels(cells.double()), photo.size).float(), photo.size)
        maps = net.seen[-1]
        expected = net(maps)[0].flatten(1).T
        assert torch.equal(seen.pool([regions], Max())[0], expected)


def test_rmac_pools_exactly_its_cells() -> None:
    photos = [random_photo(90, 130), random_photo(131, 77, seed=1)]
    net = TinyBackbone(rounds="up")
    seen = Map(size=99).extract(photos, net)
    found = RmacGrid().find(photos, seen.grids)
    for photo, grid, vectors in zip(photos, seen.grids, seen.pool(found, Max()), strict=True):
        shape = tuple(round(s * 99 / max(photo.size)) for s in photo.size)
        maps = net(as_batch([resize(torch.as_tensor(photo.pixels), shape)], "cpu"))[0]
        assert maps.shape[1:] == (grid.height, grid.width)
        cells = [(0, 0, grid.width, grid.height), *rmac_cells(grid.height, grid.width).tolist()]
        slow = torch.stack([maps[:, y1:y2, x1:x2].amax(dim=(1, 2)) for x1, y1, x2, y2 in cells])
        assert torch.allclose(vectors, slow, atol=1e-6)


def test_aligned_sampling_is_exact_on_a_ramp() -> None:
    """Cell j stands for j to j + 1, so its value belongs to j + 0.5: no half-cell shift."""
    y, x = torch.meshgrid(torch.arange(8) + 0.5, torch.arange(12) + 0.5, indexing="ij")
    maps = torch.stack([torch.stack([x, y]), torch.stack([-x, -y])])
    rows = torch.tensor([[2.0, 3.0, 6.0, 5.0], [4.2, 1.7, 5.0, 6.1], [3.3, 3.3, 3.3, 3.3], [1.0, 2.0, 3.0, 4.0]])
    pooled = Sampling("aligned", 3, False).pool(maps, torch.tensor([0, 0, 0, 1]), rows, None, Mean())
    centres = torch.stack([(rows[:, 0] + rows[:, 2]) / 2, (rows[:, 1] + rows[:, 3]) / 2], dim=1)
    assert torch.allclose(pooled, centres * torch.tensor([[1.0], [1.0], [1.0], [-1.0]]), atol=1e-5)


class Padding(TinyBackbone):
    """Twice the red of a pixel in each cell: cell (i, j) looks around pixel (4 i, 4 j), as networks that pad do."""

    def __init__(self) -> None:
        super().__init__(channels=1)
        self.offset, self.surplus = (1 - self.stride) / 2, self.stride - 1

    def forward(self, pixels: Tensor) -> Tensor:
        return 2 * pixels[:, :1, :: self.stride, :: self.stride]


def test_maps_of_networks_that_pad_are_read_where_they_look() -> None:
    """A ramp from 0 to 120 over 41 pixels of a photo twice as large, so that x pixels of it are worth 1.5 x - 1.5; the
    grid follows: cells of 8 pixels from -3 on."""
    ramp = (3 * torch.arange(41, dtype=torch.uint8)).expand(3, 41, 41).contiguous()
    photo = Photo("ramp", ramp, (82, 82))
    seen = Map(size=41, sampling="aligned").extract([photo], Padding())
    assert seen.grids[0].offset == (-3, -3)
    assert seen.grids[0].cell == (8, 8)
    given = boxes(photo.size, (9, 0, 17, 82), (30, 40, 31, 41), (20, 20, 60, 60))
    values = seen.pool([given], Mean())[0][:, 0] * 255 / 2
    middles = torch.as_tensor(given.boxes[:, 0] + given.boxes[:, 2]) / 2
    assert torch.allclose(values, 1.5 * middles - 1.5, atol=1e-3)
    cells = Map(size=41).extract([photo], Padding()).pool([boxes(photo.size, (14, 0, 20, 5))], Mean())[0]
    assert float(cells) * 255 / 2 == pytest.approx(24), "cell 2 alone, from 13 to 21"


def test_many_regions_are_sampled_in_blocks() -> None:
    maps = torch.rand(1, 2, 8, 12, generator=torch.Generator().manual_seed(0))
    rows = torch.rand(2 * BLOCK + 3, 4, generator=torch.Generator().manual_seed(1)).sort(dim=1).values * 8
    sampling, numbers = Sampling("aligned", 2, True), torch.zeros(len(rows), dtype=torch.int64)
    weights = torch.rand(len(rows), 2, 2, generator=torch.Generator().manual_seed(2))
    together = sampling.pool(maps, numbers, rows, weights, Mean())
    alone = [sampling.pool(maps, numbers[:1], rows[i : i + 1], weights[i : i + 1], Mean()) for i in range(len(rows))]
    assert torch.allclose(together, torch.cat(alone), atol=1e-6)


def test_aligned_follows_boxes_within_a_cell_and_cells_does_not() -> None:
    photo = random_photo(64, 64)
    regions = boxes(photo.size, (17.0, 17.0, 30.0, 30.0), (19.0, 18.0, 29.0, 31.0))
    for sampling, same in (("cells", True), ("aligned", False)):
        vectors = Map(size=64, sampling=sampling).extract([photo], TinyBackbone(stride=16)).pool([regions], Mean())[0]
        assert torch.equal(vectors[0], vectors[1]) is same


@pytest.mark.parametrize("sampling", ["cells", "aligned"])
def test_full_masks_change_nothing_and_empty_ones_are_ignored(sampling: str) -> None:
    photo = random_photo(50, 70)
    rows = ((3.0, 4.0, 40.0, 33.0), (10.0, 10.0, 10.0, 10.0), (0.0, 0.0, 70.0, 50.0))
    plain = Map(size=70, sampling=sampling).extract([photo], TinyBackbone()).pool([boxes(photo.size, *rows)], Mean())[0]
    masked = Map(size=70, sampling=sampling, masks=True)
    for value in (0, 1):
        regions = boxes(photo.size, *rows, masks=torch.full((3, 28, 28), value, dtype=torch.uint8))
        assert torch.allclose(masked.extract([photo], TinyBackbone()).pool([regions], Mean())[0], plain, atol=1e-5)


@pytest.mark.parametrize("sampling", ["cells", "aligned"])
@pytest.mark.parametrize("pooling", [Max(), Mean()])
def test_masks_are_the_attention(sampling: str, pooling: Max | Mean) -> None:
    photo = random_photo(64, 64)
    changed = photo.pixels.copy()
    changed[:, :, 36:] = 255 - changed[:, :, 36:]
    other = Photo("other", changed, photo.size)
    left = torch.zeros(1, 8, 8, dtype=torch.uint8)
    left[:, :, :4] = 1
    for masks, same in ((left, True), (None, False)):
        regions = boxes(photo.size, (0.0, 0.0, 64.0, 64.0), masks=masks)
        extractor = Map(size=64, sampling=sampling, samples=4, masks=True)
        first, second = (extractor.extract([p], TinyBackbone()).pool([regions], pooling)[0] for p in (photo, other))
        assert torch.allclose(first, second, atol=1e-6) is same


def test_photos_without_masks_do_not_care_about_their_neighbours() -> None:
    photos = [random_photo(40, 40), random_photo(40, 40, seed=1)]
    masked = boxes((40, 40), (1, 1, 30, 30), masks=torch.eye(8, dtype=torch.uint8)[None])
    plain = boxes((40, 40), (5, 7, 30, 31))
    extractor = Map(size=40, masks=True)
    alone = extractor.extract(photos[1:], TinyBackbone()).pool([plain], Mean())[0]
    together = extractor.extract(photos, TinyBackbone()).pool([masked, plain], Mean())[1]
    assert torch.allclose(alone, together, atol=1e-6)


def test_masks_of_a_wrong_kind_are_refused() -> None:
    photo = random_photo(40, 40)
    seen = Map(size=40, masks=True).extract([photo], TinyBackbone())
    with pytest.raises(ValueError, match=r"masks'\]: expected shape \(1, any, any\), found \(1, 4\)"):
        seen.pool([boxes(photo.size, (0, 0, 1, 1), masks=torch.ones(1, 4))], Mean())
    with pytest.raises(TypeError, match="expected an array or a tensor, found a tuple"):
        seen.pool([Regions(torch.zeros(1, 4), photo.size, extras={"masks": (None,)})], Mean())
