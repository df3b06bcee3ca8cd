"""Every pooling keeps to the contract of its kind."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

from tests.contracts.made import build, every


@every("pooling")
class TestPooling:
    MAPS = torch.randn(2, 4, 6, 7, generator=torch.Generator().manual_seed(0))

    def test_whole_maps(self, name: str, tmp_path: Path) -> None:
        pooling = build("pooling", name, tmp_path)
        assert isinstance(pooling, nn.Module)
        for count in (2, 0):
            assert pooling(self.MAPS[:count]).shape == (count, pooling.length(4))
        assert torch.isfinite(pooling(self.MAPS)).all()

    def test_rectangles_are_whole_maps_cut_out(self, name: str, tmp_path: Path) -> None:
        pooling = build("pooling", name, tmp_path)
        cells = torch.tensor([[0, 0, 0, 7, 6], [1, 2, 1, 5, 4], [1, 6, 5, 7, 6], [0, 0, 3, 7, 4], [1, 2, 1, 5, 4]])
        slow = torch.cat([pooling(self.MAPS[n : n + 1, :, y1:y2, x1:x2]) for n, x1, y1, x2, y2 in cells.tolist()])
        for maps in (self.MAPS, self.MAPS.contiguous(memory_format=torch.channels_last)):
            assert (pooling.rectangles(maps, cells) - slow).abs().max() < 1e-5
            assert pooling.rectangles(maps, cells[:0]).shape == (0, slow.shape[1])

    def test_rectangles_of_one_map_for_exporters(self, name: str, tmp_path: Path) -> None:
        pooling = build("pooling", name, tmp_path)
        cells = torch.tensor([[0, 0, 7, 6], [2, 1, 5, 4], [6, 5, 7, 6], [0, 3, 7, 4]])
        map_ = self.MAPS[:1]
        found = pooling.rectangles_of_one(map_, cells)
        assert torch.allclose(found, pooling.rectangles(map_, F.pad(cells, (1, 0))), atol=1e-5)
        if pooling.not_exported is not None:
            return

        class Program(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.pooling = pooling

            def forward(self, map_: Tensor, cells: Tensor) -> Tensor:
                pooled: Tensor = self.pooling.rectangles_of_one(map_, cells)
                return pooled

        shapes = ({2: Dim.DYNAMIC, 3: Dim.DYNAMIC}, {0: Dim.DYNAMIC})
        with torch.no_grad():
            program = torch.export.export(Program(), (map_, cells), dynamic_shapes=shapes, strict=False).module()
            other, boxes = torch.randn(1, 4, 3, 9), torch.tensor([[0, 0, 9, 3], [4, 1, 6, 2]])
            assert torch.allclose(program(other, boxes), pooling.rectangles(other, F.pad(boxes, (1, 0))), atol=1e-5)

    def test_weights(self, name: str, tmp_path: Path) -> None:
        pooling = build("pooling", name, tmp_path)
        weights = torch.zeros(2, 6, 7)
        assert pooling(self.MAPS, weights).abs().max() == 0
        assert torch.allclose(pooling(self.MAPS, weights + 1), pooling(self.MAPS), atol=1e-5)
        weights[:, 1:4, 2:5] = 1
        assert torch.allclose(pooling(self.MAPS, weights), pooling(self.MAPS[:, :, 1:4, 2:5]), atol=1e-5)
