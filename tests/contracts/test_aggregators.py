"""Every aggregator keeps to the contract of its kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from objemb.ops.grid import pixel_grid
from objemb.regions.rmac_grid import RmacGrid
from objemb.structures import RegionDescriptors
from tests.contracts.made import GIVEN, PHOTOS, build, every, in_frame, unit_or_zero


@every("aggregators")
class TestAggregators:
    def test_rows(self, name: str, tmp_path: Path) -> None:
        aggregator = build("aggregators", name, tmp_path)
        vectors = torch.nn.functional.normalize(torch.randn(6, 5, generator=torch.Generator().manual_seed(0)))
        grids = [pixel_grid(p.size) for p in PHOTOS]
        for photo, whole_and_grid, given in zip(PHOTOS, RmacGrid(levels=1).find(PHOTOS, grids), GIVEN, strict=True):
            for regions in (whole_and_grid[:6], given, given[:1], given[:0]):
                for scale in (1, 0):
                    rows = vectors[: len(regions)] * scale
                    described = RegionDescriptors(photo.id, regions, rows, photo.metadata)
                    found = aggregator.aggregate(described)
                    assert (found.image, found.metadata) == (photo.id, photo.metadata)
                    assert len(found) <= len(regions)
                    assert (len(found) == 0) == (len(regions) == 0), "an image stays searchable"
                    assert in_frame(found.regions, photo)
                    assert found.dim == 5
                    assert found.vectors.dtype == np.float32
                    assert unit_or_zero(found.vectors)
