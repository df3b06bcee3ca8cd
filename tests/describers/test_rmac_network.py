from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from objemb.aggregators.sum import Sum
from objemb.backbones.detector_trunk import DetectorTrunk
from objemb.checks import NotFittedError
from objemb.describers.rmac_network import RmacNetwork
from objemb.detectors.faster_rcnn import FasterRcnn
from objemb.extractors.crop import Crop
from objemb.extractors.map import Map
from objemb.layers.whitening import Whitening
from objemb.models import build_model, load_model
from objemb.models.pipeline import VectorPipeline
from objemb.ops.images import as_batch, resize
from objemb.ops.rmac import rmac_cells
from objemb.ops.tensors import l2
from objemb.pooling.max import Max
from objemb.pooling.mean import Mean
from objemb.regions.rmac_grid import RmacGrid
from objemb.regions.rpn_proposals import RpnProposals
from objemb.regions.whole_image import WholeImage
from objemb.structures import Photo, Regions
from tests.detectors.test_faster_rcnn import tiny
from tests.ops.test_rmac import reference, roi_pooled
from tests.tiny import TinyBackbone, plain_photo, random_photo


def minimal(_: Path) -> dict[str, Any]:
    return {"regions": RmacGrid(), "backbone": TinyBackbone(), "extractor": Map(size=64), "pooling": Mean(), "dim": 4}


PHOTOS = [
    random_photo(90, 120, id="a"),
    random_photo(120, 90, seed=1, id="b"),
    random_photo(1, 500, seed=2, id="strip"),
    random_photo(1, 1, seed=3, id="pixel"),
    random_photo(60, 80, seed=4, id="scaled", size=(301, 400)),
]
OTHERS = [random_photo(100, 100 + 4 * n, seed=20 + n) for n in range(6)]
SCALES = [0.6875, 1.0, 1.3125]


def network(**arguments: Any) -> RmacNetwork:
    parts = {
        "regions": RmacGrid(levels=2),
        "backbone": TinyBackbone(stride=8, channels=12),
        "extractor": Map(size=128),
        "pooling": Max(),
        "dim": 6,
    }
    made = RmacNetwork(**(parts | arguments))
    made.projection.fit(made.samples("projection", OTHERS), fitted_on="noise")
    return made


def by_hand(photo: Photo, model: RmacNetwork, side: float) -> Tensor:
    """The network at one scale, one region after the other."""
    factor = side / max(photo.size)
    height, width = (max(8, math.floor(s * factor + 0.5)) for s in photo.size)
    features = model.backbone(as_batch([resize(torch.as_tensor(photo.pixels), (height, width))], "cpu"))[0]
    cells = rmac_cells(features.shape[1], features.shape[2], 2).tolist()
    total = torch.zeros(model.projection.dim)
    for x1, y1, x2, y2 in cells or [[0, 0, features.shape[2], features.shape[1]]]:
        vector = features[:, y1:y2, x1:x2].amax(dim=2).amax(dim=1)
        vector = model.projection.weight @ (vector / vector.norm()) + model.projection.bias
        total += vector / vector.norm()
    return total / total.norm()


@torch.no_grad()
def test_against_the_paper() -> None:
    model = network()
    found = model.embed_photos(PHOTOS)
    assert found.dtype == torch.float32
    for photo, vector in zip(PHOTOS, found, strict=True):
        assert (vector - by_hand(photo, model, 128)).abs().max() < 1e-5, photo.id


@torch.no_grad()
def test_against_the_program_of_the_authors() -> None:
    model = network(regions=RmacGrid(levels=2, raster="pixels"))
    rigid = network()
    for photo, vector in zip(PHOTOS[:2], model.embed_photos(PHOTOS[:2]), strict=True):
        height, width = (math.floor(s * 128 / max(photo.size) + 0.5) for s in photo.size)
        features = model.backbone(as_batch([resize(torch.as_tensor(photo.pixels), (height, width))], "cpu"))[0]
        total = torch.zeros(model.projection.dim)
        for square in reference(width, height, 2):
            x1, y1, x2, y2 = roi_pooled(square, 8, features.shape[1], features.shape[2])
            pooled = features[:, y1:y2, x1:x2].amax(dim=(1, 2))
            projected = model.projection.weight @ (pooled / pooled.norm()) + model.projection.bias
            total += projected / projected.norm()
        assert (vector - total / total.norm()).abs().max() < 1e-5, photo.id
        assert (vector - rigid.embed_photos([photo])[0]).abs().max() > 1e-3, "no other than on cells"


@torch.no_grad()
def test_several_resolutions_are_summed_image_by_image() -> None:
    model = network(output="image", scales=SCALES)
    for photo, described in zip(PHOTOS, model.describe(PHOTOS), strict=True):
        total = torch.stack([by_hand(photo, model, 128 * s) for s in SCALES]).sum(dim=0)
        assert described.regions.boxes.tolist() == [[0, 0, photo.size[1], photo.size[0]]]
        assert (torch.as_tensor(described.vectors)[0] - total / total.norm()).abs().max() < 1e-5, photo.id
    assert model.decode_side() == 168


@pytest.mark.parametrize("whole_image", [False, True])
def test_the_aggregator_sums_as_the_network_does(whole_image: bool) -> None:
    by_region, by_image = (network(output=o, whole_image=whole_image) for o in ("regions", "image"))
    summed = torch.cat(
        [torch.as_tensor(Sum(whole_image=whole_image).aggregate(d).vectors) for d in by_region.describe(PHOTOS)]
    )
    images = torch.cat([torch.as_tensor(d.vectors) for d in by_image.describe(PHOTOS)])
    torch.testing.assert_close(summed, images)
    torch.testing.assert_close(summed, by_region.embed_photos(PHOTOS).detach())
    (again,) = [Sum().aggregate(d) for d in by_image.describe(PHOTOS[:1])]
    torch.testing.assert_close(torch.as_tensor(again.vectors), images[:1])


def test_training_reaches_projection_and_backbone() -> None:
    backbone = TinyBackbone(stride=8, channels=12)
    del backbone.weight
    backbone.weight = torch.nn.Parameter(TinyBackbone(stride=8, channels=12).weight)
    model = network(backbone=backbone)
    vectors = model.embed_photos(PHOTOS)
    assert vectors.requires_grad
    vectors[:, 0].sum().backward()
    for parameter in (backbone.weight, model.projection.weight, model.projection.bias):
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.any()


def test_the_gradient_is_that_of_the_slow_way() -> None:
    model = network()
    model.embed_photos(PHOTOS[:1])[0, 0].backward()
    fast = model.projection.weight.grad
    model.projection.weight.grad = None
    by_hand(PHOTOS[0], model, 128)[0].backward()
    torch.testing.assert_close(fast, model.projection.weight.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("output", ["regions", "image"])
def test_given_boxes_are_regions(output: str) -> None:
    model = network(output=output)
    given = Regions(torch.tensor([[3.0, 4, 90, 70], [7, 7, 7, 7], [120, 90, 120, 90]]), PHOTOS[0].size)
    boxes, looked, none = model.describe(PHOTOS[:3], [given, None, Regions.empty(PHOTOS[2].size)])
    assert torch.equal(torch.as_tensor(boxes.regions.boxes), torch.as_tensor(given.boxes))
    for row, box in zip(torch.as_tensor(boxes.vectors), given, strict=True):
        torch.testing.assert_close(row, model.embed_photos(PHOTOS[:1], [box])[0].detach())
    torch.testing.assert_close(
        torch.as_tensor(looked.vectors), torch.as_tensor(model.describe(PHOTOS[1:2])[0].vectors), rtol=1e-4, atol=1e-5
    )
    assert none.vectors.shape == (0, 6)
    assert not model.embed_photos(PHOTOS[2:3], [Regions.empty(PHOTOS[2].size)]).any()


@pytest.mark.parametrize("output", ["regions", "image"])
def test_a_query_box_is_an_image_of_its_own(output: str) -> None:
    model = network(output=output)
    box = Regions(torch.tensor([[10.0, 10, 90, 70]]), PHOTOS[0].size)
    cut = Photo("cut", PHOTOS[0].pixels[:, 10:70, 10:90], (60, 80))
    found = torch.as_tensor(VectorPipeline(model, Sum()).query_boxes([PHOTOS[0]], [box], "crop")[0].vectors)
    torch.testing.assert_close(found, model.embed_photos([cut]).detach())


def test_over_proposals() -> None:
    model = network(regions=RpnProposals(detector=tiny(proposals=30), max_regions=9))
    photos = [random_photo(64, 96), random_photo(64, 96, seed=1)]
    for described, vector in zip(model.describe(photos), model.embed_photos(photos), strict=True):
        assert 2 < len(described) <= 10
        torch.testing.assert_close(
            l2(torch.as_tensor(described.vectors)[1:].sum(dim=0, keepdim=True))[0], vector.detach()
        )


def test_an_image_without_anything_in_it() -> None:
    backbone = TinyBackbone(stride=8, channels=12)
    model = network(backbone=backbone)
    backbone.weight.zero_()
    vectors = model.embed_photos([plain_photo(40, 60, (0, 0, 0))])
    assert not vectors.any()
    vectors.sum().backward()
    assert torch.isfinite(model.projection.weight.grad).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("output", ["regions", "image"])
def test_no_photos(output: str) -> None:
    model = network(output=output)
    assert model.describe([]) == []
    assert model.embed_photos([]).shape == (0, 6)
    assert model.samples("projection", []).shape == (0, 12)


def test_the_projection_learns_from_pooled_regions() -> None:
    model = network(scales=[1.0, 0.5])
    samples = model.samples("projection", PHOTOS[:2], [None, Regions.whole(PHOTOS[1].size)])
    assert samples.shape[1] == 12
    torch.testing.assert_close(samples.norm(dim=1), torch.ones(len(samples)))
    assert not samples.requires_grad
    assert list(model.fitted_parts()) == ["projection"]
    with pytest.raises(NotImplementedError, match="found 'head'"):
        model.samples("head", PHOTOS)


@pytest.mark.parametrize("whole_image", [False, True])
def test_the_projection_learns_from_what_is_summed_up(whole_image: bool) -> None:
    model = network(whole_image=whole_image)
    seen = model.extractor.extract(PHOTOS[:1], model.backbone)
    (found,) = model.regions.find(PHOTOS[:1], seen.grids)
    maxima = torch.cat(seen.pool([found], model.pooling))
    wanted = [row / row.norm() for row in maxima][0 if whole_image else 1 :]
    torch.testing.assert_close(model.samples("projection", PHOTOS[:1]), torch.stack(wanted))


def one_network(**arguments: Any) -> RmacNetwork:
    trunk = DetectorTrunk(detector=tiny(proposals=40))
    return network(
        regions=RpnProposals(nms_iou=0.9, max_regions=6), backbone=trunk, extractor=Map(size=96), dim=4, **arguments
    )


def test_proposals_and_features_come_from_one_pass_of_one_network(monkeypatch: pytest.MonkeyPatch) -> None:
    model = one_network(output="image")
    detector = model.detector
    assert isinstance(detector, FasterRcnn)
    assert detector is model.backbone.detector
    assert not any(name.startswith("regions.") for name in model.state_dict()), "the network is saved once"
    passes = []
    trunk = detector.backbone.maps
    monkeypatch.setattr(detector.backbone, "maps", lambda *a, **k: passes.append(len(a[0])) or trunk(*a, **k))
    photos = [random_photo(64, 96), random_photo(64, 96, seed=1), random_photo(96, 64, seed=2)]
    described = model.describe(photos)
    assert passes == [2, 1], "one pass for each shape of input"
    monkeypatch.undo()
    for photo, found in zip(photos, described, strict=True):
        (proposed,) = detector.propose([photo])  # its own size is that of the extractor here
        summed = model.regions.select(proposed)
        vectors = torch.cat([model.embedded(v) for v in model.features([photo]).pool([summed], model.pooling)])
        torch.testing.assert_close(
            torch.as_tensor(found.vectors), l2(vectors[1:].sum(dim=0, keepdim=True)), atol=1e-4, rtol=0
        )
    again = copy.deepcopy(model)
    assert again.regions.detector is again.backbone.detector
    assert model.limited(2).regions.detector is detector


def test_one_network_at_several_scales_given_boxes_and_with_gradients() -> None:
    model = one_network(output="image", scales=SCALES)
    photo = random_photo(64, 96)
    single = [one._outputs([photo], [None], 1.0) for one in (model.for_part((1, 1), (1, 1)),)]
    parts = [model._outputs([photo], [None], scale) for scale in SCALES]
    torch.testing.assert_close(single[0], parts[1])
    torch.testing.assert_close(torch.as_tensor(model.describe([photo])[0].vectors), l2(sum(parts)), atol=1e-5, rtol=0)
    box = Regions(torch.tensor([[8.0, 8, 60, 50]]), photo.size)
    (given,) = model.describe([photo], [box])
    assert given.vectors.shape == (1, 4)
    model.requires_grad_(True)
    model.embed_photos([photo], factor=1.0).sum().backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    assert any(".body." in name for name in reached)
    assert not any(".rpn." in name or ".fpn." in name for name in reached), "boxes have no gradients"


def test_a_detector_to_share_has_to_be_there() -> None:
    with pytest.raises(
        ValueError, match=r"regions\.detector: expected a detector, or a backbone .* \(detector_trunk\)"
    ):
        network(regions=RpnProposals())
    with pytest.raises(ValueError, match=r"found none with the backbone .* and the extractor crop"):
        network(regions=RpnProposals(), backbone=DetectorTrunk(detector=tiny()), extractor=Crop(size=64))
    with pytest.raises(
        ValueError, match=r"regions\.detector: expected a network .*, or a describer that shares its own"
    ):
        RpnProposals().find(PHOTOS[:1])
    with pytest.raises(TypeError, match=r"backbone: expected a map of a detector \(detector_trunk\)"):
        Map(size=64).extract_in_passes(PHOTOS[:1], TinyBackbone())
    with pytest.raises(TypeError, match="extractor: expected map, which takes a photo as a whole, found crop"):
        Crop(size=64).extract_in_passes(PHOTOS[:1], TinyBackbone())


def test_a_fresh_projection_says_what_to_do() -> None:
    fresh = RmacNetwork(
        regions=WholeImage(), backbone=TinyBackbone(), extractor=Map(size=64), pooling=Max(), output="image"
    )
    assert fresh.dim == 5
    for call in (fresh.describe, fresh.embed_photos):
        with pytest.raises(NotFittedError, match="--fit-on PHOTOS"):
            call(PHOTOS[:1])


def test_a_whitening_comes_last() -> None:
    model = network(output="image")
    vectors = torch.cat([torch.as_tensor(d.vectors) for d in model.describe(OTHERS)])
    model.whitening = Whitening.fit(vectors, 3, fitted_on="noise")
    assert model.dim == 3
    (found,) = model.describe(OTHERS[:1])
    torch.testing.assert_close(torch.as_tensor(found.vectors), model.whitening(vectors[:1]))


def test_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="output: expected one of 'regions', 'image', found 'sum'"):
        network(output="sum")
    with pytest.raises(ValueError, match=r"dim: expected at most the length of the vectors \(12\), found 13"):
        network(dim=13)
    with pytest.raises(ValueError, match=r"regions: expected one per photo \(2\), found 1"):
        network().embed_photos(PHOTOS[:2], [None])


def test_a_model_folder_keeps_the_projection(tmp_path) -> None:
    settings = {
        "describer": {
            "name": "rmac_network",
            "regions": {"name": "rmac_grid"},
            "backbone": {"name": "narrow_resnet", "width": 2, "blocks": [1, 1, 1, 1]},
            "extractor": {"name": "map", "size": 64},
            "pooling": {"name": "max"},
            "dim": 5,
        },
        "aggregator": {"name": "sum"},
    }
    model = build_model(settings)
    model.describer.projection.fit(model.describer.samples("projection", OTHERS), fitted_on="noise")
    model.save(tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert torch.equal(
        torch.as_tensor(again.describe(PHOTOS[0]).vectors), torch.as_tensor(model.describe(PHOTOS[0]).vectors)
    )
