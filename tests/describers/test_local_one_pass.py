"""Boxes and local features from one pass of a detector."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from objemb.backbones.detector_trunk import DetectorTrunk
from objemb.describers.local import Local
from objemb.detectors.capabilities import DetectorPass
from objemb.detectors.torchvision_rcnn import TorchvisionRcnn
from objemb.local_features.dense import Dense
from objemb.models import build_model, fit_parts, load_model
from objemb.regions.detections import Detections
from objemb.regions.rmac_grid import RmacGrid
from objemb.regions.rpn_proposals import RpnProposals
from objemb.structures import RegionFeatures, Regions
from tests.small_settings import RCNN
from tests.tiny import TinyBackbone, random_photo

LIGHT = "fasterrcnn_mobilenet_v3_large_320_fpn"
SMALL = {"num_classes": 3, "min_size": 64, "max_size": 128, "score_threshold": 0.0, "max_detections": 6}
PHOTOS = [
    random_photo(60, 90, id="a"),
    random_photo(90, 60, seed=1, id="b"),
    random_photo(60, 91, seed=2, id="c"),
    random_photo(30, 45, seed=3, id="scaled down", size=(120, 180)),
]
BOXES = Regions([[0, 0, 45, 60], [20, 20, 80, 50]], (60, 90))


def detector() -> TorchvisionRcnn:
    torch.manual_seed(0)
    return TorchvisionRcnn(LIGHT, **SMALL)


def describer(shared: bool = True, scales: Sequence[float] = (1.0,), **arguments: Any) -> Local:
    network = detector()
    features = Dense(
        backbone=DetectorTrunk(detector=network, level="trunk16"), size=None, scales=scales, count=30, dim=None
    )
    regions = Detections(detector=None if shared else network, min_score=0.0)
    return Local(local_features=features, regions=regions, shared_detector=shared, **arguments)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of what the trunk of a detector was run on."""
    shapes: list[tuple[int, ...]] = []
    real = TorchvisionRcnn._children

    def counted(self: TorchvisionRcnn, pixels: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        if not pixels.is_meta:  # a look at kernels and strides
            shapes.append(tuple(pixels.shape))
        return real(self, pixels, names)

    monkeypatch.setattr(TorchvisionRcnn, "_children", counted)
    return shapes


def alike(first: RegionFeatures, second: RegionFeatures) -> None:
    np.testing.assert_allclose(first.regions.boxes, second.regions.boxes, atol=1e-3)
    for name in ("points", "scales", "sides", "vectors", "strengths"):
        np.testing.assert_allclose(
            getattr(first.features, name), getattr(second.features, name), rtol=1e-4, atol=1e-4, err_msg=name
        )
    assert np.array_equal(first.members, second.members)


def test_one_pass_gives_what_two_give(runs: list[tuple[int, ...]]) -> None:
    one_pass, two_passes = describer(), describer(shared=False)
    del runs[:]
    apart = two_passes.describe(PHOTOS)
    twice = len(runs)
    del runs[:]
    together = one_pass.describe(PHOTOS)
    assert twice == 2 * len(runs)
    assert sum(shape[0] for shape in runs) == len(PHOTOS)
    for one, other, photo in zip(together, apart, PHOTOS, strict=True):
        alike(one, other)
        assert one.image == photo.id
        assert len(one.regions) > 1
        assert 0 < len(one.features) <= 30


def test_the_map_is_that_of_the_detector_without_its_padding() -> None:
    """The trunk's map of what the detector takes, 64 x 96 pixels of a photo of 60 x 90, cell by cell."""
    (found,) = describer().describe(PHOTOS[:1])
    network = detector()
    batch = network.preprocess(PHOTOS[:1])
    map_ = network.maps(batch, ("trunk16",))["trunk16"][0]
    assert (batch.image_sizes, tuple(batch.tensors.shape[2:]), tuple(map_.shape[1:])) == ([(64, 96)], (64, 96), (4, 6))
    norms = map_.norm(dim=0).flatten()
    order = norms.argsort(descending=True)
    assert len(found.features) == 24
    np.testing.assert_allclose(found.features.strengths, norms[order].detach().numpy(), rtol=1e-4)
    x = (order % 6) * 16 + 0.5  # the first cell of a network that pads looks around the first pixel
    np.testing.assert_allclose(found.features.points[:, 0], x.numpy() * 90 / 96, atol=1e-4)

    strip = random_photo(60, 70, id="strip")  # 64 x 74 pixels in 64 x 96
    (of_strip,) = describer().describe([strip])
    assert network.preprocess([strip]).image_sizes == [(64, 74)]
    assert sorted(set(of_strip.features.points[:, 0].round(1).astype(float).round(1).tolist())) == [
        0.5,
        15.6,
        30.7,
        45.9,
        61.0,
    ]


def test_other_scales_run_by_themselves(runs: list[tuple[int, ...]]) -> None:
    local, apart = describer(scales=(1.0, 0.5)), describer(shared=False, scales=(1.0, 0.5))
    fine = describer(scales=(0.5,))
    del runs[:]
    found = local.describe(PHOTOS[:1])
    assert [shape[2:] for shape in runs] == [(64, 96), (32, 64)], "sides of 32 and 48 as multiples of 32"
    alike(found[0], apart.describe(PHOTOS[:1])[0])
    assert len(set(found[0].features.scales.tolist())) == 2
    del runs[:]
    fine.describe(PHOTOS[:1])
    assert len(runs) == 2


def test_given_boxes_need_the_map_only(runs: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    local = describer()
    alone = local.describe(PHOTOS[:1], [BOXES])
    monkeypatch.setattr(TorchvisionRcnn, "regions", None)
    del runs[:]
    (again,) = local.describe(PHOTOS[:1], [BOXES])
    assert len(runs) == 1
    alike(again, alone[0])
    monkeypatch.undo()
    mixed = local.describe(PHOTOS, [BOXES, None, None, None])
    for one, other in zip(mixed[1:], local.describe(PHOTOS[1:]), strict=True):
        alike(one, other)
    alike(mixed[0], alone[0])
    np.testing.assert_allclose(mixed[0].features.vectors, local.describe(PHOTOS[:1])[0].features.vectors, atol=1e-4)


def test_parts_are_as_large_as_in_their_photo(runs: list[tuple[int, ...]]) -> None:
    local = describer()
    part = Regions([[0, 0, 45, 30]], (60, 90))
    del runs[:]
    local.describe_parts(PHOTOS[0], part, scaled=True)
    local.describe_parts(PHOTOS[0], part, scaled=False)
    assert [shape[2:] for shape in runs] == [(32, 64), (64, 96)], "half of the photo's side; that of a photo"
    assert local.local_features.side_of((60, 90)) == 96
    assert local.local_features.for_part((30, 45), (60, 90)).size == 48


def test_crops_have_passes_of_their_own(runs: list[tuple[int, ...]]) -> None:
    (found,) = describer(region_features="crop").describe(PHOTOS[:1])
    (apart,) = describer(shared=False, region_features="crop").describe(PHOTOS[:1])
    alike(found, apart)


def test_the_detector_is_saved_once_and_moves_with_the_describer(tmp_path: Path) -> None:
    settings = {
        "describer": {
            "name": "local",
            "local_features": {
                "name": "dense",
                "backbone": {
                    "name": "detector_trunk",
                    "level": "trunk16",
                    "detector": {"name": "torchvision_rcnn", **RCNN, "weights": "random"},
                },
                "size": None,
                "scales": [1.0],
                "count": 30,
                "dim": 8,
            },
            "regions": {"name": "detections", "min_score": 0.0},
            "shared_detector": True,
        },
        "aggregator": {"name": "asmk", "words": 8, "form": "regional"},
    }
    photos = [np.asarray(photo.pixels).transpose(1, 2, 0) for photo in PHOTOS]
    model = fit_parts(build_model(settings), photos)
    names = model.describer.state_dict()
    assert names
    assert all(name.startswith("local_features.") for name in names)
    assert model.describer.regions is not None
    assert model.describer.regions.detector is model.describer.local_features.backbone.detector
    assert model.preprocessing["colour"] == "RGB from 0 to 1"
    model.save(tmp_path / "model")
    opened = load_model(tmp_path / "model")
    assert opened.fingerprint == model.fingerprint
    found, again = model.describe(photos[0]), opened.describe(photos[0])
    assert np.array_equal(found.residuals, again.residuals)
    assert len(found.regions) > 1
    assert len(opened.limited(1).describe(photos[0]).regions) == 2
    twin = copy.deepcopy(opened.describer)
    assert twin.regions.detector is twin.local_features.backbone.detector
    assert twin.regions.detector is not opened.describer.regions.detector


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        (None, r"and regions of detections, found dense and no regions"),
        (
            RmacGrid(levels=1),
            "regions: expected detections or rpn_proposals, which can share a detector, found rmac_grid",
        ),
        (Detections(detector=detector()), "regions.detector: expected null, .* found torchvision_rcnn"),
        (RpnProposals(detector=detector()), "regions.detector: expected null, since the detector of the features is"),
    ],
)
def test_regions_that_cannot_share(regions: Any, message: str) -> None:
    features = Dense(backbone=DetectorTrunk(detector=detector()), size=None, dim=None)
    with pytest.raises(ValueError, match=message):
        Local(local_features=features, regions=regions, shared_detector=True)


def test_features_that_cannot_share() -> None:
    with pytest.raises(ValueError, match=r"size: expected a number of pixels, or null .* found null for TinyBackbone"):
        Dense(backbone=TinyBackbone(), size=None, dim=None)
    own = Dense(backbone=DetectorTrunk(detector=detector()), size=96, dim=None)
    assert own.shared_detector() is None
    with pytest.raises(ValueError, match=r"shared_detector: expected features of a map .* found dense and detections"):
        Local(local_features=own, regions=Detections(), shared_detector=True)


def test_proposals_from_maps_that_are_there() -> None:
    network = detector()
    source = RpnProposals(detector=network, max_regions=5)
    batch = network.preprocess(PHOTOS[:1])
    with torch.no_grad():
        (found,) = source.find_in(DetectorPass(batch, network.features(batch)), PHOTOS[:1])
    np.testing.assert_allclose(found.boxes, source.find(PHOTOS[:1])[0].boxes, atol=1e-3)
