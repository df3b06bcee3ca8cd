from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from objemb import registry
from objemb.config import resolve
from objemb.detectors.base import Detector
from objemb.detectors.capabilities import DetectorPass
from objemb.models import build_model, load_model
from objemb.ops.grid import Grid, pixel_grid
from objemb.regions.base import RegionSource
from objemb.regions.detections import Detections
from objemb.regions.patchify import Patchify
from objemb.regions.rmac_grid import RmacGrid
from objemb.regions.union import Union
from objemb.structures import NO_LABEL, Photo, Regions
from tests.detectors.test_faster_rcnn import tiny
from tests.small_settings import CROPS, FASTER
from tests.tiny import plain_photo, random_photo

GREY = (128, 128, 128)

MINIMAL = {
    "of": [
        {"name": "detections", "detector": {"name": "faster_rcnn", **FASTER}, "min_score": 0.0},
        {"name": "patchify", "levels": 2},
    ]
}
PHOTO = plain_photo(100, 100, GREY)


class Given(Detector):
    """Finds the same boxes in every photo."""

    def __init__(self, boxes: Sequence[Sequence[float]], classes: Sequence[str] = (), **regions: Any) -> None:
        super().__init__()
        self.boxes, self.names, self.regions = boxes, tuple(classes), regions
        self.asked: list[str] = []

    def detect(self, photos: Sequence[Photo]) -> list[Regions]:
        self.asked += [photo.id for photo in photos]
        return [Regions(self.boxes, photo.size, classes=self.names, **self.regions) for photo in photos]


def detections(*boxes: Sequence[float], **regions: Any) -> Detections:
    return Detections(detector=Given(boxes, **regions), nms_iou=1.0)


def test_sources_in_order_without_near_duplicates() -> None:
    first = detections([10, 10, 30, 30], [60, 60, 90, 90])
    second = detections([11, 10, 30, 30], [0, 50, 50, 100], [61, 61, 90, 90])  # 0: IoU 0.95, 2: IoU 0.93
    (regions,) = Union(of=[first, second], nms_iou=0.9).find([PHOTO])
    assert regions.boxes.tolist() == [[0, 0, 100, 100], [10, 10, 30, 30], [60, 60, 90, 90], [0, 50, 50, 100]]
    (regions,) = Union(of=[first, second], nms_iou=0.94).find([PHOTO])
    assert len(regions) == 5
    (regions,) = Union(of=[first, second], nms_iou=1.0).find([PHOTO])
    assert len(regions) == 6


def test_the_budget_leaves_out_the_last() -> None:
    source = Union(of=[detections([10, 10, 30, 30]), Patchify(levels=2)], max_regions=3)
    assert source.find([PHOTO])[0].boxes[1:].tolist() == [[10, 10, 30, 30], [0, 0, 50, 50], [50, 0, 100, 50]]
    assert len(source.limited(2).find([PHOTO])[0]) == 3
    assert len(source.limited(20).find([PHOTO])[0]) == 4, "not beyond its own budget"
    assert len(source.limited(0).find([PHOTO])[0]) == 1


def test_later_sources_fill_up_photos_with_few_boxes() -> None:
    rich, poor = plain_photo(100, 100, GREY), Photo("poor", PHOTO.pixels, (100, 100))

    class Some(Given):
        def detect(self, photos: Sequence[Photo]) -> list[Regions]:
            return [r[:1] if p.id == "poor" else r for r, p in zip(super().detect(photos), photos, strict=True)]

    last = Given([[70, 70, 90, 90]])
    source = Union(
        of=[
            Detections(detector=Some([[10, 10, 30, 30], [60, 60, 90, 90]])),
            Patchify(levels=2),
            Detections(detector=last),
        ],
        fill_to=2,
    )
    assert [len(regions) for regions in source.find([rich, poor, rich])] == [3, 6, 3]
    assert last.asked == [], "the patches were enough"
    assert [len(regions) for regions in source.find([])] == []


def test_classes_are_joined_by_name() -> None:
    first = detections([10, 10, 30, 30], classes=["cup", "jar"], labels=[1])
    second = detections([50, 50, 70, 70], [0, 50, 20, 70], classes=["tin", "cup"], labels=[0, 1])
    (regions,) = Union(of=[first, Patchify(levels=2), second]).find([PHOTO])
    assert regions.classes == ("cup", "jar", "tin")
    assert regions.label_names == (None, "jar", None, None, None, None, "tin", "cup")


def test_extras_of_all_parts_are_kept() -> None:
    masks = np.ones((1, 100, 100), bool)
    first = detections([10, 10, 30, 30], extras={"masks": masks})
    second = detections([50, 50, 70, 70], extras={"masks": masks})
    assert set(Union(of=[first, second]).find([PHOTO])[0].extras) == {"masks"}
    assert set(Union(of=[first, Patchify()]).find([PHOTO])[0].extras) == set()


def test_a_query_consists_of_objects_not_of_patches() -> None:
    source = Union(of=[Patchify(), detections([10, 10, 30, 30])])
    assert source.objects([PHOTO])[0].boxes.tolist() == [[0, 0, 100, 100], [10, 10, 30, 30]]
    assert len(Union(of=[Patchify()]).objects([PHOTO])[0]) == 1


def test_grids_reach_the_sources_that_lay_them() -> None:
    grid = Grid(3, 5, (20.0, 20.0))
    source = Union(of=[detections([10, 10, 30, 30]), RmacGrid(levels=2)], nms_iou=1.0, max_regions=99)
    (regions,) = source.find([plain_photo(60, 100, GREY)], [grid])
    (laid,) = RmacGrid(levels=2).find([plain_photo(60, 100, GREY)], [grid])
    assert regions.boxes[2:].tolist() == laid.boxes[1:].tolist()
    (other,) = source.find([plain_photo(60, 100, GREY)], [pixel_grid((60, 100))])
    assert other.boxes.tolist() != regions.boxes.tolist()


def test_maps_of_a_detector_are_used_by_its_own_source() -> None:
    network = tiny()
    photos = [random_photo(64, 96, seed=n) for n in range(2)]
    source = Union(of=[Detections(min_score=0.0), Patchify(levels=2)])
    assert source.detector is None
    source.share(network)
    assert source.detector is network
    assert not list(source.parameters()), "the detector is saved by the module that it is a part of"
    batch = network.preprocess(photos)
    seen = DetectorPass(batch, network.features(batch))
    alone = Union(of=[Detections(detector=network, min_score=0.0), Patchify(levels=2)])
    for one, other in zip(source.find_in(seen, photos), alone.find(photos), strict=True):
        torch.testing.assert_close(torch.as_tensor(one.boxes), torch.as_tensor(other.boxes))


def test_built_from_settings() -> None:
    source = registry.build(RegionSource, registry.resolve("regions", {"name": "union", **MINIMAL}, "regions"))
    assert isinstance(source, Union)
    assert [type(part) for part in source.sources] == [Detections, Patchify]
    assert source.detector is source.sources[0].detector
    assert len({id(p) for p in source.parameters()}) == len(list(source.parameters()))
    assert not any(name.startswith("detector.") for name in source.state_dict())


def test_no_sources() -> None:
    with pytest.raises(ValueError, match="of: expected at least one source of regions, found none"):
        Union(of=[])


def test_labels_without_names() -> None:
    first = detections([10, 10, 30, 30], labels=[3])
    (regions,) = Union(of=[first, Patchify(levels=2)]).find([PHOTO])
    assert regions.labels.tolist() == [NO_LABEL, 3, *[NO_LABEL] * 4]


def test_a_model_indexes_patches_and_searches_for_objects(tmp_path: Path) -> None:
    detector = {"name": "faster_rcnn", **FASTER}
    of = [{"name": "detections", "detector": detector, "min_score": 0.0, "max_regions": 2}, {"name": "patchify"}]
    describer = {**CROPS, "regions": {"name": "union", "of": of, "nms_iou": 1.0}}
    model = build_model(resolve({"describer": describer, "aggregator": {"name": "keep"}}))
    array = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    rows, query = model.describe(array), model.query(array, "both")
    assert len(rows) == 1 + 2 + 29
    assert 1 <= len(query) <= 3
    assert len(model.detect(array)) == 31, "what would be indexed"
    model.save(tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert again.fingerprint == model.fingerprint
    assert np.allclose(again.describe(array).vectors, rows.vectors, atol=1e-5)


def test_weights_of_sources_in_a_saved_model(tmp_path: Path) -> None:
    """Weights of parts in a list are part of the folder, and the settings no longer name them."""
    detector: dict[str, Any] = {"name": "faster_rcnn", **FASTER}
    resolved = registry.resolve("detectors", detector, "detector")
    torch.save(registry.build(Detector, resolved).state_dict(), tmp_path / "detector.pt")
    of = [{"name": "detections", "detector": {**detector, "weights": str(tmp_path / "detector.pt")}}]
    describer = {**CROPS, "regions": {"name": "union", "of": of}}
    model = build_model(resolve({"describer": describer, "aggregator": {"name": "keep"}}))
    model.save(tmp_path / "model")
    (tmp_path / "detector.pt").unlink()
    again = load_model(tmp_path / "model")
    assert again.fingerprint == model.fingerprint
    assert again.settings["describer"]["regions"]["of"][0]["detector"]["weights"] is None
    assert "describer.regions.of[0].detector.weights" in again.provenance["weights"]
