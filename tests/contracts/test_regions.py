"""Every region source keeps to the contract of its kind."""

from __future__ import annotations

from pathlib import Path

from objemb.extractors.base import pixel_grid
from objemb.ops.grid import Grid
from tests.contracts.made import PHOTOS, build, every, in_frame, is_whole


@every("regions")
class TestRegions:
    def test_region_0_is_the_whole_image(self, name: str, tmp_path: Path) -> None:
        source = build("regions", name, tmp_path)
        coarse = [Grid(3, 5, (p.size[0] / 2.5, p.size[1] / 5)) for p in PHOTOS]
        for grids in ([pixel_grid(p) for p in PHOTOS], coarse):
            found = source.find(PHOTOS, grids)
            assert len(found) == len(PHOTOS)
            for regions, photo in zip(found, PHOTOS, strict=True):
                assert regions.size == photo.size
                assert is_whole(regions, photo)
                assert in_frame(regions, photo)

    def test_no_photos(self, name: str, tmp_path: Path) -> None:
        assert build("regions", name, tmp_path).find([], []) == []
