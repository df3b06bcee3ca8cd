"""Every region source keeps to the contract of its kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from objemb.ops.grid import Grid, pixel_grid
from objemb.regions.base import RegionSource
from objemb.structures import Regions
from tests.contracts.made import PHOTOS, build, every, in_frame, is_whole


@every("regions")
class TestRegions:
    def test_region_0_is_the_whole_image(self, name: str, tmp_path: Path) -> None:
        source = build("regions", name, tmp_path)
        coarse = [Grid(3, 5, (p.size[0] / 2.5, p.size[1] / 5)) for p in PHOTOS]
        for grids in (None, [pixel_grid(p.size) for p in PHOTOS], coarse):
            found = source.find(PHOTOS, grids)
            assert len(found) == len(PHOTOS)
            for regions, photo in zip(found, PHOTOS, strict=True):
                assert regions.size == photo.size
                assert is_whole(regions, photo)
                assert in_frame(regions, photo)

    def test_no_photos(self, name: str, tmp_path: Path) -> None:
        assert build("regions", name, tmp_path).find([]) == []
        assert build("regions", name, tmp_path).find([], []) == []

    def test_limited(self, name: str, tmp_path: Path) -> None:
        source = build("regions", name, tmp_path)
        full = source.find(PHOTOS)
        for most in (0, 1):
            fewer = source.limited(most)
            assert fewer.detector is source.detector
            for few, regions in zip(fewer.find(PHOTOS), full, strict=True):
                assert np.array_equal(few.boxes, regions.boxes[: len(few)])
                assert len(few) == (len(regions) if source.detector is None else min(len(regions), 1 + most))
        again = source.find(PHOTOS)
        assert all(np.array_equal(a.boxes, b.boxes) for a, b in zip(again, full, strict=True)), "unchanged"

    def test_decode_side(self, name: str, tmp_path: Path) -> None:
        source = build("regions", name, tmp_path)
        assert source.decode_side() == (0 if source.detector is None else source.detector.decode_side())

    def test_boxes_that_were_found_before(self, name: str, tmp_path: Path) -> None:
        """A source of a detector's boxes keeps some of them; one whose regions depend on more than the size of a photo
        refuses them."""
        source, photo = build("regions", name, tmp_path), PHOTOS[0]
        found = Regions([[1, 2, 9, 10], [3, 3, 12, 14]], photo.size, scores=[0.9, 0.8])
        if type(source).select is RegionSource.select:
            with pytest.raises(ValueError, match=f"takes boxes of a detector, found {name}"):
                source.select(found)
            return
        kept = source.select(found)
        assert is_whole(kept, photo)
        assert len(kept) > 1
        assert _rows(kept) & _rows(found) or np.array_equal(kept.boxes, source.find([photo])[0].boxes)

    def test_objects_are_among_the_regions(self, name: str, tmp_path: Path) -> None:
        source = build("regions", name, tmp_path)
        for few, regions in zip(source.objects(PHOTOS), source.find(PHOTOS), strict=True):
            assert _rows(few) <= _rows(regions)


def _rows(regions: Regions) -> set[tuple[float, ...]]:
    return {tuple(box) for box in regions.boxes.tolist()}
