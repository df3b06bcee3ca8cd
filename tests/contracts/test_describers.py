"""Every describer keeps to its contract: of vectors, or of local features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from objemb import registry
from objemb.aggregators.base import Aggregator
from objemb.aggregators.keep import Keep
from objemb.aggregators.sum import Sum
from objemb.backbones.base import Backbone
from objemb.describers.base import Describer
from objemb.describers.capabilities import FeatureDescriber
from objemb.extractors.base import Extractor
from objemb.extractors.map import Map
from objemb.layers.whitening import Whitening
from objemb.models.pipeline import VectorPipeline
from objemb.regions.base import RegionSource
from objemb.structures import Regions
from tests.contracts.made import GIVEN, PHOTOS, build, every, in_frame, is_whole, unit_or_zero
from tests.tiny import random_photo

ALL = [n for n in registry.names("describers") if registry.origin("describers", n) is None]
OF_FEATURES = [n for n in ALL if issubclass(registry.load("describers", n), FeatureDescriber)]


@every("describers")
def test_every_describer_has_one_of_the_contracts(name: str) -> None:
    loaded = registry.load("describers", name)
    assert issubclass(loaded, Describer) != issubclass(loaded, FeatureDescriber)


@pytest.mark.parametrize("name", [n for n in ALL if n not in OF_FEATURES])
class TestDescribers:
    def test_looking(self, name: str, tmp_path: Path) -> None:
        describer: Describer = build("describers", name, tmp_path)
        together = describer.describe(PHOTOS)
        assert len(together) == len(PHOTOS)
        for photo, described in zip(PHOTOS, together, strict=True):
            assert (described.image, described.metadata) == (photo.id, photo.metadata)
            assert is_whole(described.regions, photo)
            assert in_frame(described.regions, photo)
            assert described.dim == describer.dim
            assert isinstance(described.vectors, np.ndarray)
            assert described.vectors.dtype == np.float32
            assert unit_or_zero(described.vectors)
            (alone,) = describer.describe([photo])
            assert np.allclose(alone.vectors, described.vectors, atol=1e-5)

    def test_given_regions(self, name: str, tmp_path: Path) -> None:
        describer = build("describers", name, tmp_path)
        for given, described in zip(GIVEN, describer.describe(PHOTOS, GIVEN), strict=True):
            assert np.array_equal(described.regions.boxes, given.boxes)
            assert described.vectors.shape == (len(given), describer.dim)
        (looked,) = describer.describe(PHOTOS[:1], [None])
        assert is_whole(looked.regions, PHOTOS[0])

    @pytest.mark.parametrize("aggregator", [Keep(), Sum()], ids=["keep", "sum"])
    def test_a_query_box_is_seen_at_the_scale_that_is_asked_for(
        self, name: str, aggregator: Aggregator, tmp_path: Path
    ) -> None:
        describer, photo = build("describers", name, tmp_path), random_photo(96, 128, seed=7)
        box = Regions(torch.tensor([[16.0, 8, 80, 72]]), photo.size)
        scaled, cut = (
            VectorPipeline(describer, aggregator).query_boxes([photo], [box], c)[0].vectors for c in ("scaled", "crop")
        )
        extractor = describer.extractor
        summed_in_photo = not aggregator.per_region and describer.queries_in_context(False)
        if extractor is None or summed_in_photo:  # a box has the scale of its photo by its nature
            expected = VectorPipeline(describer, aggregator).query_boxes([photo], [box], "context")[0].vectors
        elif isinstance(extractor, Map):
            smaller = describer.with_extractor(Map(size=extractor.size * 64 / 128))
            expected = VectorPipeline(smaller, aggregator).query_whole([photo.part(box)])[0].vectors
            assert not np.allclose(scaled, cut, atol=1e-3), "the scale is not listened to"
        else:
            expected = cut
        np.testing.assert_allclose(scaled, expected, atol=1e-5, rtol=0)

    def test_no_photos(self, name: str, tmp_path: Path) -> None:
        describer: Describer = build("describers", name, tmp_path)
        assert describer.describe([]) == []
        assert describer.describe([], []) == []
        for part in describer.fitted_parts():
            assert len(describer.samples(part, [])) == 0

    def test_given_regions_are_checked(self, name: str, tmp_path: Path) -> None:
        describer: Describer = build("describers", name, tmp_path)
        with pytest.raises(ValueError, match=r"regions: expected one per photo \(2\), found 1"):
            describer.describe(PHOTOS[:2], [None])
        with pytest.raises(ValueError, match=r"regions of 'a': expected the image size \(40, 60\), found \(60, 40\)"):
            describer.describe(PHOTOS[:1], [Regions.whole((60, 40))])

    def test_whitening_is_applied_last_and_changes_a_copy(self, name: str, tmp_path: Path) -> None:
        describer: Describer = build("describers", name, tmp_path)
        plain = describer.describe(PHOTOS)
        assert describer.dim == describer.raw_dim == plain[0].dim
        vectors = torch.cat([torch.as_tensor(d.vectors) for d in plain])
        whitening = Whitening.fit(vectors, 2, fitted_on="photos of the tests")
        whitened = describer.whitened(whitening)
        assert (whitened.raw_dim, whitened.dim, describer.dim) == (describer.raw_dim, 2, describer.raw_dim)
        assert describer.whitening is None
        for one, before in zip(whitened.describe(PHOTOS), plain, strict=True):
            expected = whitening(torch.as_tensor(before.vectors))
            torch.testing.assert_close(torch.as_tensor(one.vectors), expected, atol=1e-4, rtol=0)
            assert np.array_equal(one.regions.boxes, before.regions.boxes)
        names = describer.state_dict().keys()
        assert whitened.state_dict().keys() - names == {"whitening.mean", "whitening.projection"}
        assert whitened.whitened(None).state_dict().keys() == names
        assert not any(m.training for m in whitened.modules())

    def test_no_gradient_is_recorded(self, name: str, tmp_path: Path) -> None:
        describer: Describer = build("describers", name, tmp_path).requires_grad_(True)
        for described in (*describer.describe(PHOTOS[:1]), *describer.describe(PHOTOS[:1], GIVEN[:1])):
            assert np.isfinite(described.vectors).all()
        for part in describer.fitted_parts():
            assert not describer.samples(part, PHOTOS[:1]).requires_grad

    def test_limited(self, name: str, tmp_path: Path) -> None:
        describer: Describer = build("describers", name, tmp_path)
        full, limited = describer.describe(PHOTOS[:2]), describer.limited(1).describe(PHOTOS[:2])
        for few, all_of_them in zip(limited, full, strict=True):
            assert len(few) == (len(all_of_them) if describer.detector is None else min(len(all_of_them), 2))
            assert np.allclose(few.vectors, all_of_them.vectors[: len(few)], atol=1e-5)
        assert [len(d) for d in describer.describe(PHOTOS[:2])] == [len(d) for d in full], "the describer is unchanged"

    def test_what_it_consists_of_is_declared(self, name: str, tmp_path: Path) -> None:
        describer: Describer = build("describers", name, tmp_path)
        assert describer.backbone is None or isinstance(describer.backbone, Backbone)
        assert describer.extractor is None or isinstance(describer.extractor, Extractor)
        assert describer.regions is None or isinstance(describer.regions, RegionSource)
        assert describer.detector is (None if describer.regions is None else describer.regions.detector)
        assert describer.scales
        assert min(describer.scales) > 0
        if describer.backbone is None:
            with pytest.raises(ValueError, match=r"me: expected a describer with a backbone, .* found"):
                describer.needed_backbone("me")
            with pytest.raises(ValueError, match="expected a describer with a backbone and an extractor, found"):
                describer.features(PHOTOS)
            assert describer.for_part((4, 4), (8, 8)) is describer
        else:
            assert describer.needed_backbone("me") is describer.backbone
            assert describer.for_part((4, 4), (8, 8)).backbone is describer.backbone

    def test_stays_in_eval_mode(self, name: str, tmp_path: Path) -> None:
        describer = build("describers", name, tmp_path)
        assert isinstance(describer, nn.Module)
        describer.train()
        assert not any(m.training for m in describer.modules())

    def test_decode_side(self, name: str, tmp_path: Path) -> None:
        side = build("describers", name, tmp_path).decode_side()
        assert side is None or (isinstance(side, int) and side > 0)


@pytest.mark.parametrize("name", OF_FEATURES)
class TestFeatureDescribers:
    def test_looking(self, name: str, tmp_path: Path) -> None:
        describer: FeatureDescriber = build("describers", name, tmp_path)
        together = describer.describe(PHOTOS)
        assert len(together) == len(PHOTOS)
        for photo, described in zip(PHOTOS, together, strict=True):
            assert (described.image, described.metadata) == (photo.id, photo.metadata)
            assert is_whole(described.regions, photo)
            assert in_frame(described.regions, photo)
            assert described.features.dim == describer.dim
            (alone,) = describer.describe([photo])
            assert np.allclose(alone.features.vectors, described.features.vectors, atol=1e-5)
            assert np.array_equal(alone.members, described.members)

    def test_given_regions(self, name: str, tmp_path: Path) -> None:
        describer: FeatureDescriber = build("describers", name, tmp_path)
        for given, described in zip(GIVEN, describer.describe(PHOTOS, GIVEN), strict=True):
            assert np.array_equal(described.regions.boxes, given.boxes)
        (looked,) = describer.describe(PHOTOS[:1], [None])
        assert is_whole(looked.regions, PHOTOS[0])
        with pytest.raises(ValueError, match="regions of 'a': expected the image size"):
            describer.describe(PHOTOS[:1], [Regions.whole((1, 2))])

    def test_no_photos(self, name: str, tmp_path: Path) -> None:
        assert build("describers", name, tmp_path).describe([]) == []

    def test_no_gradient_is_recorded(self, name: str, tmp_path: Path) -> None:
        describer = build("describers", name, tmp_path).requires_grad_(True)
        assert describer.describe(PHOTOS[:1])[0].features.vectors is not None

    def test_copies_share_the_networks(self, name: str, tmp_path: Path) -> None:
        describer: FeatureDescriber = build("describers", name, tmp_path)
        limited = describer.limited(1)
        if describer.detector is not None:
            assert all(len(d) <= 2 for d in limited.describe(PHOTOS))
        assert limited.backbone is describer.backbone
        assert not limited.training

    @pytest.mark.parametrize("scaled", [True, False])
    def test_parts_that_are_cut_out(self, name: str, tmp_path: Path, scaled: bool) -> None:
        describer: FeatureDescriber = build("describers", name, tmp_path)
        for photo, given in zip(PHOTOS, GIVEN, strict=True):
            described = describer.describe_parts(photo, given, scaled=scaled)
            assert (described.image, described.metadata) == (photo.id, photo.metadata)
            assert np.array_equal(described.regions.boxes, given.boxes)
            assert described.features.dim == describer.dim
            for region in range(len(given)):
                inside = described.features.inside(
                    given.boxes[region : region + 1] + np.array([-1, -1, 1, 1], np.float32)
                )[0]
                assert inside[described.of_region(region)].all(), "cut out pixel by pixel"

    def test_decode_side(self, name: str, tmp_path: Path) -> None:
        side = build("describers", name, tmp_path).decode_side()
        assert side is None or side > 0
