from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from objemb.describers.local import Local
from objemb.local_features.dense import Dense
from objemb.regions.whole_image import WholeImage
from objemb.structures import Photo, Regions
from tests.tiny import TinyBackbone, random_photo

DENSE = {
    "name": "dense",
    "backbone": {"name": "narrow_resnet", "width": 4, "blocks": [1, 1, 1, 1], "weights": "random"},
    "size": 64,
    "scales": [1.0],
    "count": 20,
    "dim": 6,
}
MINIMAL = {"local_features": DENSE, "regions": {"name": "rmac_grid", "levels": 1}}


def dense(**settings: object) -> Dense:
    """Cells of 4 x 4 pixels of photos as they are."""
    given = {"size": 1000, "scales": [1.0], "smoothing": 1, "dim": None, "enlarge": False, **settings}
    return Dense(backbone=TinyBackbone(), **given)  # type: ignore[arg-type]


BOXES = Regions([[0, 0, 24, 16], [0, 0, 8, 8], [8, 4, 24, 16], [5, 5, 5, 5]], (16, 24))


def test_features_belong_to_the_regions_that_their_centres_lie_in() -> None:
    """Centres lie at 2, 6, 10 ... in both directions."""
    (described,) = Local(local_features=dense()).describe([random_photo(16, 24)], [BOXES])
    assert len(described.features) == 4 * 6
    inside = [sorted(map(tuple, described.features.points[described.of_region(r)].tolist())) for r in range(4)]
    assert inside[1] == [(2, 2), (2, 6), (6, 2), (6, 6)]
    assert len(inside[2]) == 3 * 4
    assert inside[3] == []


def test_regions_that_are_cut_out_have_features_of_their_own() -> None:
    photo = random_photo(16, 24)
    (described,) = Local(local_features=dense(), region_features="crop").describe([photo], [BOXES])
    counts = [len(described.of_region(r)) for r in range(4)]
    assert counts == [24, 4, 12, 1], "a crop of one pixel is enlarged to what the network needs"
    (cut,) = dense().extract([Photo("cut", torch.as_tensor(photo.pixels)[:, 4:16, 8:24], (12, 16))])
    rows = described.of_region(2)
    np.testing.assert_allclose(described.features.vectors[rows], cut.vectors, atol=1e-5)
    np.testing.assert_allclose(described.features.points[rows], cut.points + np.array([8, 4]))


def test_crops_of_a_photo_that_was_decoded_smaller() -> None:
    """16 x 24 decoded pixels of a photo of 32 x 48: points are in original pixels."""
    photo = random_photo(16, 24, size=(32, 48))
    boxes = Regions([[16, 8, 48, 32]], photo.size)
    (described,) = Local(local_features=dense(), region_features="crop").describe([photo], [boxes])
    assert described.features.points.min(axis=0).tolist() == [16 + 2, 8 + 2]
    assert described.features.points.max(axis=0).tolist() == [48 - 2, 32 - 2]


def test_the_network_is_in_the_state_once() -> None:
    describer = Local(local_features=dense(), regions=WholeImage())
    assert set(describer.state_dict()) == {"local_features.backbone.weight"}
    assert describer.backbone is describer.local_features.backbone
    assert copy.deepcopy(describer).backbone is not describer.backbone
    other = copy.deepcopy(describer)
    assert other.backbone is other.local_features.backbone


def test_parts_of_the_extractor_learn_from_whole_photos() -> None:
    describer = Local(local_features=dense(dim=3), regions=WholeImage())
    assert list(describer.fitted_parts()) == ["local_features.projection"]
    photos = [random_photo(16, 24), random_photo(24, 16, seed=1)]
    assert describer.samples("local_features.projection", photos, [BOXES, None]).shape == (48, 5)
    with pytest.raises(NotImplementedError, match="found 'codebook'"):
        describer.samples("codebook", photos)


def test_pixels_that_are_needed() -> None:
    assert Local(local_features=dense(size=100, scales=[2.0, 1.0])).decode_side() == 200
    assert Local(local_features=dense(size=100), region_features="crop").decode_side() is None
    with pytest.raises(ValueError, match="region_features: expected one of 'inside', 'crop', found 'both'"):
        Local(local_features=dense(), region_features="both")
