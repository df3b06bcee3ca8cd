"""Every extractor keeps to the contract of its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from objemb.pooling.mean import Mean
from objemb.structures import Photo, Regions
from tests.contracts.made import GIVEN, PHOTOS, build, every
from tests.tiny import TinyBackbone, plain_photo


@every("extractors")
class TestExtractors:
    def pool(self, extractor: Any, photos: list[Photo], regions: list[Regions], net: TinyBackbone) -> list[Tensor]:
        return extractor.extract(photos, net).pool(regions, Mean())

    def test_shapes_and_empties(self, name: str, tmp_path: Path) -> None:
        extractor = build("extractors", name, tmp_path)
        vectors = self.pool(extractor, PHOTOS, GIVEN, TinyBackbone())
        assert [v.shape for v in vectors] == [(len(r), 5) for r in GIVEN]
        assert all(torch.isfinite(v).all() for v in vectors)
        assert all((v.abs().sum(dim=1) > 0).all() for v in vectors), "every region gets a vector"
        assert self.pool(extractor, [], [], TinyBackbone()) == []

    def test_grids_cover_the_photos(self, name: str, tmp_path: Path) -> None:
        for scale in (1.0, 0.7):
            grids = build("extractors", name, tmp_path).grids(PHOTOS, TinyBackbone(), scale)
            assert len(grids) == len(PHOTOS)
            for grid, photo in zip(grids, PHOTOS, strict=True):
                for cells, cell, side in zip((grid.height, grid.width), grid.cell, photo.size, strict=True):
                    assert cells >= 1
                    assert abs(cells * cell - side) < cell + 1e-6
        assert build("extractors", name, tmp_path).grids([], TinyBackbone()) == []

    def test_grids_need_no_network_to_run(self, name: str, tmp_path: Path) -> None:
        net = TinyBackbone(rounds="up")
        build("extractors", name, tmp_path).grids(PHOTOS, net)
        assert not net.seen

    def test_maps_where_there_is_one_per_photo(self, name: str, tmp_path: Path) -> None:
        extractor = build("extractors", name, tmp_path)
        for net in (TinyBackbone(), TinyBackbone(rounds="up")):
            features = extractor.extract(PHOTOS, net, 0.7)
            if not extractor.one_map:
                with pytest.raises(TypeError, match="expected map, which computes one feature map per photo"):
                    _ = features.maps
                with pytest.raises(TypeError, match="extractor: expected map"):
                    _ = features.grids
                continue
            assert features.grids == extractor.grids(PHOTOS, net, 0.7)
            for one, grid in zip(features.maps, features.grids, strict=True):
                assert one.shape == (net.channels, grid.height, grid.width)

    def test_regions_as_inputs_where_they_are_cut_out(self, name: str, tmp_path: Path) -> None:
        extractor, net = build("extractors", name, tmp_path), TinyBackbone()
        if not extractor.cuts_out:
            with pytest.raises(TypeError, match=f"expected crop, which cuts .* found {type(extractor).__name__}"):
                extractor.cut(PHOTOS[0], GIVEN[0], net)
            return
        for photo, regions, pooled in zip(PHOTOS, GIVEN, self.pool(extractor, PHOTOS, GIVEN, net), strict=True):
            inputs = list(extractor.cut(photo, regions, net))
            assert len(inputs) == len(regions)
            for pixels, vector in zip(inputs, pooled, strict=True):
                assert pixels.dtype == torch.uint8
                assert torch.allclose(Mean()(net(pixels[None].float() / 255))[0], vector, atol=1e-5)

    def test_alone_or_in_a_batch(self, name: str, tmp_path: Path) -> None:
        extractor = build("extractors", name, tmp_path)
        together = self.pool(extractor, PHOTOS, GIVEN, TinyBackbone())
        for photo, regions, vectors in zip(PHOTOS, GIVEN, together, strict=True):
            (alone,) = self.pool(extractor, [photo], [regions], TinyBackbone())
            assert torch.allclose(alone, vectors, atol=1e-5)

    def test_the_network_sees_rgb_from_0_to_1(self, name: str, tmp_path: Path) -> None:
        photo = plain_photo(40, 60, (255, 0, 51))
        for multiple in (1, 14):
            net = TinyBackbone(multiple=multiple)
            self.pool(build("extractors", name, tmp_path), [photo], [Regions.whole(photo.size)], net)
            assert net.seen
            for pixels in net.seen:
                assert pixels.dtype == torch.float32
                assert pixels.shape[2] % multiple == 0
                assert pixels.shape[3] % multiple == 0
                expected = torch.tensor([1.0, 0.0, 0.2])[None, :, None, None].expand_as(pixels)
                assert torch.allclose(pixels, expected)

    def test_photos_are_not_edited(self, name: str, tmp_path: Path) -> None:
        before = [torch.as_tensor(p.pixels).clone() for p in PHOTOS]
        self.pool(build("extractors", name, tmp_path), PHOTOS, GIVEN, TinyBackbone())
        assert all(torch.equal(torch.as_tensor(p.pixels), b) for p, b in zip(PHOTOS, before, strict=True))

    def test_scale_changes_the_size_of_the_input(self, name: str, tmp_path: Path) -> None:
        sides = []
        for scale in (1.0, 2.0):
            net = TinyBackbone()
            extractor = build("extractors", name, tmp_path)
            extractor.extract(PHOTOS[:1], net, scale).pool([Regions.whole(PHOTOS[0].size)], Mean())
            sides.append(max(net.seen[0].shape[2:]))
        assert sides[1] == 2 * sides[0]

    def test_a_part_is_seen_as_large_as_in_its_photo_or_at_a_size_of_its_own(self, name: str, tmp_path: Path) -> None:
        extractor, part = build("extractors", name, tmp_path), PHOTOS[0]
        seen = []
        for whole in (part.size, (2 * part.size[0], 2 * part.size[1])):
            net = TinyBackbone()
            self.pool(extractor.for_part(part.size, whole), [part], [Regions.whole(part.size)], net)
            seen.append(tuple(net.seen[0].shape[2:]))
        halved = all(abs(2 * small - large) <= 1 for large, small in zip(*seen, strict=True))
        assert halved or seen[0] == seen[1]
        net = TinyBackbone()
        self.pool(extractor, [part], [Regions.whole(part.size)], net)
        assert tuple(net.seen[0].shape[2:]) == seen[0], "the extractor itself does not change"

    def test_runs_where_the_backbone_is(self, name: str, tmp_path: Path) -> None:
        """Tensors on "meta" take part in nothing that happens elsewhere, as those of an accelerator."""
        net = TinyBackbone().to("meta")
        assert {v.device.type for v in self.pool(build("extractors", name, tmp_path), PHOTOS, GIVEN, net)} == {"meta"}

    def test_decode_side(self, name: str, tmp_path: Path) -> None:
        side = build("extractors", name, tmp_path).decode_side()
        assert side is None or (isinstance(side, int) and side > 0)
