"""Every pooling keeps to the contract of its kind."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

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

    def test_weights(self, name: str, tmp_path: Path) -> None:
        pooling = build("pooling", name, tmp_path)
        weights = torch.zeros(2, 6, 7)
        assert pooling(self.MAPS, weights).abs().max() == 0
        assert torch.allclose(pooling(self.MAPS, weights + 1), pooling(self.MAPS), atol=1e-5)
        weights[:, 1:4, 2:5] = 1
        assert torch.allclose(pooling(self.MAPS, weights), pooling(self.MAPS[:, :, 1:4, 2:5]), atol=1e-5)
