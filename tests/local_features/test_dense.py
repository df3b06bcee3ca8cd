from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from objemb.local_features.dense import Dense
from objemb.structures import Photo
from tests.tiny import TinyBackbone, random_photo

BACKBONE = {"name": "narrow_resnet", "width": 4, "blocks": [1, 1, 1, 1], "weights": "random"}
MINIMAL = {"backbone": BACKBONE, "size": 96, "scales": [1.0, 0.5], "count": 40, "dim": 6}


def plain(**settings: object) -> Dense:
    """Cells of 4 x 4 pixels, nothing but their activations."""
    given = {"size": 24, "scales": [1.0], "smoothing": 1, "dim": None, "unit": False, **settings}
    return Dense(backbone=TinyBackbone(), **given)  # type: ignore[arg-type]


def by_cell(photo: Photo) -> Tensor:
    """Activations ``(C, h, w)`` of a photo that enters the network as it is."""
    return TinyBackbone()(torch.as_tensor(photo.pixels)[None].float() / 255)[0]


def test_cells_by_hand() -> None:
    """A photo of 16 x 24 pixels has 4 x 6 cells; those of the largest norm come first, where they look."""
    photo = random_photo(16, 24)
    maps = by_cell(photo)
    (features,) = plain(count=5).extract([photo])
    norms = maps.norm(dim=0).flatten()
    order = norms.argsort(descending=True)[:5]
    np.testing.assert_allclose(features.strengths, norms[order].numpy(), rtol=1e-5)
    np.testing.assert_allclose(features.vectors, maps.flatten(1)[:, order].T.numpy(), rtol=1e-5)
    centres = [[4 * int(n % 6) + 2, 4 * int(n // 6) + 2] for n in order]
    assert features.points.tolist() == centres
    assert features.sides.tolist() == [4] * 5, "the receptive field of one kernel of 4"
    assert features.scales.tolist() == [1] * 5


def test_scales_compete_in_original_pixels() -> None:
    """The photo is twice as large as its pixels; a scale of 2 has twice as many cells along each side."""
    photo = random_photo(24, 24, size=(48, 48))
    (features,) = plain(scales=[2.0, 1.0], count=1000).extract([photo])
    assert len(features) == 12 * 12 + 6 * 6
    fine = features.scales == 1
    assert fine.sum() == 144
    assert set(features.scales[~fine].tolist()) == {0.5}
    assert set(features.sides[fine].tolist()) == {4}
    assert set(features.sides[~fine].tolist()) == {8}
    assert features.points[fine].min() == 2
    assert features.points[fine].max() == 46
    assert features.points[~fine].min() == 4


def test_points_are_where_a_padding_network_looks() -> None:
    """ResNet's first cell looks around the first pixel: half a stride before where a plain raster has it."""
    from objemb.backbones.narrow_resnet import NarrowResnet

    net = NarrowResnet(width=4, blocks=(1, 1, 1, 1))
    (features,) = Dense(backbone=net, size=65, scales=[1.0], dim=None).extract([random_photo(65, 65)])
    assert sorted(set(features.points[:, 0].tolist())) == [0.5, 16.5, 32.5, 48.5, 64.5]
    assert features.sides[0] == net.receptive_side()


def test_smoothing_is_a_mean_over_the_neighbours_that_there_are() -> None:
    photo = random_photo(16, 24)
    maps = by_cell(photo)
    (features,) = plain(smoothing=3, count=100).extract([photo])
    row = features.points.tolist().index([2, 2])
    np.testing.assert_allclose(features.vectors[row], maps[:, :2, :2].mean(dim=(1, 2)).numpy(), rtol=1e-5)
    row = features.points.tolist().index([10, 6])
    np.testing.assert_allclose(features.vectors[row], maps[:, :3, 1:4].mean(dim=(1, 2)).numpy(), rtol=1e-5)
    np.testing.assert_allclose(features.strengths.max(), maps.norm(dim=0).max().item(), rtol=1e-5)


def test_photos_are_enlarged_or_not() -> None:
    photo = random_photo(16, 24)
    (enlarged,) = plain(size=48).extract([photo])
    assert len(enlarged) == 8 * 12
    (kept,) = plain(size=48, enlarge=False).extract([photo])
    assert len(kept) == 4 * 6
    (reduced,) = plain(size=12, enlarge=False).extract([photo])
    assert len(reduced) == 2 * 3


def test_whitening_by_hand() -> None:
    photos = [random_photo(40, 60, seed=n) for n in range(3)]
    extractor = plain(size=60, dim=3, unit=True, count=100)
    vectors = extractor.samples("projection", photos)
    assert vectors.shape == (300, 5)
    extractor.fitted_parts()["projection"].fit(vectors, fitted_on="photos")
    centred = (vectors - vectors.mean(dim=0)).double()
    values, directions = torch.linalg.eigh(centred.T @ centred / len(vectors))
    white = F.normalize(centred @ directions.flip(1)[:, :3] / values.flip(0)[:3].sqrt(), dim=1)
    found = np.concatenate([f.vectors for f in extractor.extract(photos)])
    assert extractor.dim == 3
    np.testing.assert_allclose(np.abs(found), white.abs().numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"smoothing": 2}, "smoothing: expected an odd number"),
        ({"scales": []}, "scales: expected a list of at least one"),
        ({"scales": [0.0]}, "scales: expected a number above 0"),
        ({"dim": 6}, r"dim: expected at most the length of the vectors \(5\), found 6"),
        ({"enlarge": 1}, "enlarge: expected true or false"),
        ({"unit": 1}, "unit: expected true or false"),
    ],
)
def test_wrong_settings(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plain(**wrong)
