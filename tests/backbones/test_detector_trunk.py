from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from objemb.backbones.detector_trunk import DetectorTrunk
from objemb.backbones.narrow_resnet import NarrowResnet
from objemb.detectors.faster_rcnn import FasterRcnn
from objemb.detectors.stored_boxes import StoredBoxes
from objemb.detectors.torchvision_rcnn import TorchvisionRcnn
from objemb.models import build_model, load_model
from tests.small_settings import RCNN
from tests.tiny import random_photo

MINIMAL = {"detector": {"name": "torchvision_rcnn", **RCNN}}

LEVELS = {"a": (3, 4), "b": (3, 8), "trunk4": (3, 4), "trunk8": (3, 8), "trunk32": (3, 32)}


class FakeDetector(nn.Module):
    """Levels whose values say where they come from: pixels times 10 plus the stride."""

    mean, std = torch.zeros(3), torch.ones(3)

    def levels(self) -> dict[str, tuple[int, int]]:
        return LEVELS

    def normalised(self, pixels: Tensor) -> Tensor:
        return pixels * 10

    def maps(self, batch: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        return {name: batch[:, :, ::stride, ::stride] + stride for name, (_, stride) in LEVELS.items() if name in names}


def test_a_level_of_the_normalised_pixels() -> None:
    net = DetectorTrunk(detector=FakeDetector(), level="b")
    assert (net.channels, net.stride, net.multiple, net.smallest) == (3, 8, 32, 32)
    assert torch.equal(net(torch.full((2, 3, 32, 64), 0.5)), torch.full((2, 3, 4, 8), 13.0))


@pytest.mark.parametrize(
    ("level", "stages"),
    [
        (None, {4: ("trunk4", 3), 8: ("trunk8", 3), 32: ("trunk32", 3)}),
        ("trunk8", {4: ("trunk4", 3), 8: ("trunk8", 3)}),
        ("trunk4", {4: ("trunk4", 3)}),
        ("b", {4: ("a", 3), 8: ("b", 3)}),
    ],
)
def test_stages_are_of_one_kind(level: str | None, stages: dict[int, tuple[str, int]]) -> None:
    net = DetectorTrunk(detector=FakeDetector(), level=level)
    pixels = torch.rand(1, 3, 32, 32)
    assert net.stages == stages
    assert list(net.maps(pixels)) == list(stages)
    assert torch.equal(net.maps(pixels)[net.stride], net(pixels))


@torch.no_grad()
def test_the_trunk_of_a_detector_is_its_classification_network() -> None:
    """With the same weights both give the same maps, at any size; in memory their pixels lie differently."""
    trunk = NarrowResnet(width=4, blocks=[1, 1, 1, 1], stride=32)
    detector = FasterRcnn(trunk, channels=8, box_width=8)
    net = DetectorTrunk(detector=detector)
    pixels = torch.rand(2, 3, 64, 96)
    assert net.level == "trunk32"
    torch.testing.assert_close(net(pixels), trunk(pixels), rtol=1e-4, atol=1e-4)
    assert list(net.maps(pixels)) == list(trunk.maps(pixels)) == [4, 8, 16, 32]
    assert torch.equal(net.mean, trunk.mean)
    assert torch.equal(net.std, trunk.std)


@torch.no_grad()
def test_pixels_are_normalised_as_the_detector_does() -> None:
    detector = TorchvisionRcnn("fasterrcnn_mobilenet_v3_large_320_fpn", num_classes=1, min_size=64, max_size=64)
    photo = random_photo(64, 64)
    own = detector.features(detector.preprocess([photo]))
    for level in detector.levels():
        net = DetectorTrunk(detector=detector, level=level)
        assert torch.allclose(net(torch.as_tensor(photo.pixels)[None] / 255), own[level], atol=1e-5)


def test_in_a_model_and_its_folder(tmp_path: Path) -> None:
    detector = {"name": "faster_rcnn", "channels": 8, "box_width": 8, "num_classes": 1}
    narrow = {"name": "narrow_resnet", "width": 4, "blocks": [1, 1, 1, 1], "stride": 32}
    settings: dict[str, Any] = {
        "describer": {
            "name": "pooled_regions",
            "regions": {"name": "rmac_grid"},
            "backbone": {"name": "detector_trunk", "level": "1", "detector": {**detector, "backbone": narrow}},
            "extractor": {"name": "map", "size": 64},
            "pooling": {"name": "mean"},
        }
    }
    model = build_model(settings)
    photo = random_photo(50, 70)
    model.save(tmp_path / "model")
    assert model.preprocessing["mean"] == [0.485, 0.456, 0.406]
    assert torch.equal(
        torch.as_tensor(load_model(tmp_path / "model").describe(photo).vectors),
        torch.as_tensor(model.describe(photo).vectors),
    )
    assert model.dim == 8


def test_detectors_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"level: expected one of 'a', 'b', .* found 'trunk16' \(did you mean"):
        DetectorTrunk(detector=FakeDetector(), level="trunk16")
    file = tmp_path / "boxes.json"
    file.write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(TypeError, match="detector: expected a network such as torchvision_rcnn, found StoredBoxes"):
        DetectorTrunk(detector=StoredBoxes(file=file))  # type: ignore[arg-type]


def test_levels_look_around_the_first_pixel() -> None:
    """Of the trunk and of the pyramid, where what comes down from the level above does not move the cells."""
    detector = TorchvisionRcnn(arch="fasterrcnn_mobilenet_v3_large_320_fpn")
    for level, (_, stride) in detector.levels().items():
        assert DetectorTrunk(detector=detector, level=level).offset == (1 - stride) / 2
