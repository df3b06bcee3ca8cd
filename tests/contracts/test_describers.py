"""Every describer keeps to the contract of its kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from objemb.aggregators.base import Aggregator
from objemb.aggregators.keep import Keep
from objemb.aggregators.sum import Sum
from objemb.describers.base import Describer
from objemb.extractors.map import Map
from objemb.models.query import describe_boxes, describe_whole
from objemb.ops.images import cut_out
from objemb.structures import Regions
from tests.contracts.made import GIVEN, PHOTOS, build, every, in_frame, is_whole, unit_or_zero
from tests.tiny import random_photo


@every("describers")
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
        scaled, cut = (describe_boxes(describer, aggregator, photo, box, c).vectors for c in ("scaled", "crop"))
        extractor = getattr(describer, "extractor", None)
        summed_in_photo = not aggregator.per_region and describer.sees_boxes_in_photo(False)
        if extractor is None or summed_in_photo:  # a box has the scale of its photo by its nature
            expected = describe_boxes(describer, aggregator, photo, box, "context").vectors
        elif isinstance(extractor, Map):
            describer.extractor = Map(size=extractor.size * 64 / 128)
            expected = describe_whole(describer, aggregator, cut_out(photo, box)).vectors
            assert not np.allclose(scaled, cut, atol=1e-3), "the scale is not listened to"
        else:
            expected = cut
        np.testing.assert_allclose(scaled, expected, atol=1e-5, rtol=0)

    def test_no_photos(self, name: str, tmp_path: Path) -> None:
        assert build("describers", name, tmp_path).describe([]) == []

    def test_stays_in_eval_mode(self, name: str, tmp_path: Path) -> None:
        describer = build("describers", name, tmp_path)
        assert isinstance(describer, nn.Module)
        describer.train()
        assert not any(m.training for m in describer.modules())

    def test_decode_side(self, name: str, tmp_path: Path) -> None:
        side = build("describers", name, tmp_path).decode_side()
        assert side is None or (isinstance(side, int) and side > 0)
