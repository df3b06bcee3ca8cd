from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_pool

from objemb.ops.rectangles import equal_rectangles, inside, rectangle_max, rectangle_mean


def all_rectangles(height: int, width: int, number: int) -> Tensor:
    return torch.tensor(
        [
            (number, x1, y1, x2, y2)
            for x1 in range(width)
            for x2 in range(x1 + 1, width + 1)
            for y1 in range(height)
            for y2 in range(y1 + 1, height + 1)
        ]
    )


@pytest.fixture(params=["contiguous", "channels last"])
def maps(request: pytest.FixtureRequest) -> Tensor:
    made = torch.randn(3, 4, 5, 9, generator=torch.Generator().manual_seed(0))
    return made if request.param == "contiguous" else made.contiguous(memory_format=torch.channels_last)


def test_max_of_every_rectangle(maps: Tensor) -> None:
    cells = torch.cat([all_rectangles(5, 9, number) for number in (2, 0)])
    slow = torch.stack([maps[n, :, y1:y2, x1:x2].amax(dim=(1, 2)) for n, x1, y1, x2, y2 in cells.tolist()])
    assert torch.equal(rectangle_max(maps, cells), slow)


def test_max_is_that_of_roi_pooling(maps: Tensor) -> None:
    cells = all_rectangles(5, 9, 1)
    inclusive = cells.float() - torch.tensor([0.0, 0, 0, 1, 1])
    assert torch.equal(rectangle_max(maps, cells), roi_pool(maps, inclusive, 1).flatten(1))


def test_mean_of_every_rectangle(maps: Tensor) -> None:
    cells = torch.cat([all_rectangles(5, 9, number) for number in (2, 0)])
    slow = torch.stack([maps[n, :, y1:y2, x1:x2].double().mean(dim=(1, 2)) for n, x1, y1, x2, y2 in cells.tolist()])
    assert (rectangle_mean(maps, cells) - slow).abs().max() < 1e-6


def test_large_map() -> None:
    maps = torch.rand(1, 2, 65, 130, generator=torch.Generator().manual_seed(0))
    cells = torch.tensor([[0, 0, 0, 130, 65], [0, 1, 0, 129, 64], [0, 63, 2, 64, 65], [0, 3, 7, 130, 8]])
    for fast, slow in ((rectangle_max, Tensor.amax), (rectangle_mean, Tensor.mean)):
        expected = [slow(maps[0, :, y1:y2, x1:x2], dim=(1, 2)) for _, x1, y1, x2, y2 in cells.tolist()]
        assert torch.allclose(fast(maps, cells), torch.stack(expected), atol=1e-6)


@pytest.mark.parametrize("pooling", [rectangle_max, rectangle_mean])
def test_no_rectangles(pooling, maps: Tensor) -> None:
    assert pooling(maps, torch.zeros(0, 5, dtype=torch.int64)).shape == (0, 4)
    assert pooling(maps[:0], torch.zeros(0, 5, dtype=torch.int64)).shape == (0, 4)


def test_weighted_mean_of_every_rectangle(maps: Tensor) -> None:
    weights = torch.rand(3, 5, 9, generator=torch.Generator().manual_seed(1))
    weights[2, :3] = 0
    cells = torch.cat([all_rectangles(5, 9, number) for number in (2, 0)])
    slow = []
    for n, x1, y1, x2, y2 in cells.tolist():
        cut = weights[n, y1:y2, x1:x2]
        slow.append((maps[n, :, y1:y2, x1:x2] * cut).sum(dim=(1, 2)) / cut.sum().clamp_min(1e-12))
    assert (rectangle_mean(maps, cells, weights) - torch.stack(slow)).abs().max() < 1e-5


def test_copies_of_every_rectangle(maps: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("objemb.ops.rectangles.COPIED", 200)
    cells = torch.cat([all_rectangles(5, 9, number) for number in (2, 0)])
    seen = []
    for rows, cut in equal_rectangles(maps, cells):
        assert len(rows) == len(cut)
        assert len(cut) == 1 or cut.numel() <= 200
        for row, copied in zip(rows.tolist(), cut, strict=True):
            n, x1, y1, x2, y2 = cells[row].tolist()
            assert torch.equal(copied, maps[n, :, y1:y2, x1:x2])
        seen += rows.tolist()
    assert sorted(seen) == list(range(len(cells)))
    assert list(equal_rectangles(maps, cells[:0])) == []


def test_inside() -> None:
    assert inside(torch.tensor([[1, 0, 3, 1], [0, 0, 1, 2]]), (2, 3)).int().tolist() == [
        [[0, 1, 1], [0, 0, 0]],
        [[1, 0, 0], [1, 0, 0]],
    ]
    assert inside(torch.zeros(0, 4, dtype=torch.int64), (2, 3)).shape == (0, 2, 3)
