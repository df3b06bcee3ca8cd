from __future__ import annotations

from typing import Any

import pytest
import torch

from objemb.detectors.faster_rcnn import FasterRcnn
from objemb.detectors.stored_boxes import StoredBoxes
from objemb.ops.boxes import iou
from objemb.regions.rpn_proposals import RpnProposals
from objemb.structures import Photo, Regions
from tests.detectors.test_faster_rcnn import tiny
from tests.small_settings import FASTER
from tests.tiny import plain_photo, random_photo

MINIMAL = {"detector": {"name": "faster_rcnn", **FASTER}}


@pytest.fixture(scope="module")
def detector() -> FasterRcnn:
    return tiny(proposals=60)


def source(detector: FasterRcnn, **arguments: Any) -> RpnProposals:
    return RpnProposals(detector=detector, **arguments)


def test_the_whole_image_then_the_best_proposals(detector: FasterRcnn) -> None:
    photos = [random_photo(64, 96), random_photo(90, 50, seed=1)]
    for regions, proposed, photo in zip(
        source(detector, nms_iou=1.0, max_regions=7).find(photos), detector.propose(photos), photos, strict=True
    ):
        assert len(proposed) > 7
        assert regions.boxes[0].tolist() == [0, 0, photo.size[1], photo.size[0]]
        assert torch.equal(torch.as_tensor(regions.boxes)[1:], torch.as_tensor(proposed.boxes)[:7])
        assert set(regions.scores.tolist()) == {1.0}


def test_none_overlaps_a_better_one_too_much(detector: FasterRcnn) -> None:
    photo = random_photo(64, 96)
    (regions,) = source(detector, nms_iou=0.4).find([photo])
    (proposed,) = detector.propose([photo])
    kept: list[int] = []
    for row in range(len(proposed)):  # greedily, one after the other
        if all(
            float(iou(torch.as_tensor(proposed.boxes)[[row]], torch.as_tensor(proposed.boxes)[[k]])) <= 0.4
            for k in kept
        ):
            kept.append(row)
    assert 0 < len(kept) < len(proposed)
    assert torch.equal(torch.as_tensor(regions.boxes)[1:], torch.as_tensor(proposed.boxes)[kept])


def test_boxes_are_in_original_pixels(detector: FasterRcnn) -> None:
    photo = random_photo(60, 90)
    large = Photo("large", photo.pixels, (600, 900))
    small, big = source(detector).find([photo, large])
    torch.testing.assert_close(torch.as_tensor(big.boxes), 10 * torch.as_tensor(small.boxes), rtol=1e-4, atol=1e-2)


def test_proposals_in_a_batch_or_alone(detector: FasterRcnn) -> None:
    photos = [random_photo(64, 96), random_photo(96, 64, seed=1), random_photo(64, 96, seed=2)]
    together = detector.propose(photos)
    for photo, found in zip(photos, together, strict=True):
        (alone,) = detector.propose([photo])
        assert len(alone) == len(found)
        torch.testing.assert_close(
            torch.as_tensor(alone.boxes)[:5], torch.as_tensor(found.boxes)[:5], rtol=1e-3, atol=1e-1
        )
    assert detector.propose([]) == []


def test_one_pass_of_the_detector(detector: FasterRcnn, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    features = detector.features
    monkeypatch.setattr(detector, "features", lambda batch: passes.append(len(batch.image_sizes)) or features(batch))
    monkeypatch.setattr(detector, "regions", None)  # the classifying heads stay idle
    source(detector).find([random_photo(64, 96, seed=n) for n in range(3)])
    assert passes == [3]


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_photos_of_a_pixel(detector: FasterRcnn, size: tuple[int, int]) -> None:
    (regions,) = source(detector).find([plain_photo(*size, (9, 200, 30))])
    assert regions.boxes[0].tolist() == [0, 0, size[1], size[0]]
    assert (regions.boxes[:, 2:] <= [size[1], size[0]]).all()


def test_no_proposals_leave_the_whole_image(detector: FasterRcnn, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = plain_photo(40, 60, (0, 0, 0))
    monkeypatch.setattr(detector, "proposals", lambda batch, features, photos: [Regions.empty(photo.size)])
    assert source(detector).find([photo])[0].boxes.tolist() == [[0, 0, 60, 40]]
    monkeypatch.undo()
    assert len(source(detector, max_regions=0).find([photo])[0]) == 1


def test_what_a_model_asks_of_it(detector: FasterRcnn) -> None:
    made = source(detector, max_regions=5)
    assert made.decode_side() == 96
    assert not any(m.training for m in made.train().detector.modules())
    fewer = made.limited(2)
    assert fewer.detector is made.detector
    photo = random_photo(64, 96)
    assert len(fewer.find([photo])[0]) == 3
    assert len(made.find([photo])[0]) == 6


def test_mistakes_are_named(detector: FasterRcnn) -> None:
    with pytest.raises(TypeError, match="detector: expected a network such as torchvision_rcnn, found StoredBoxes"):
        RpnProposals(detector=StoredBoxes.__new__(StoredBoxes))
    with pytest.raises(ValueError, match="nms_iou"):
        source(detector, nms_iou=1.5)
    with pytest.raises(ValueError, match="max_regions"):
        source(detector, max_regions=-1)
