from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from objemb.backbones.narrow_resnet import NarrowResnet
from objemb.detectors import activation_components
from objemb.detectors.activation_components import ActivationComponents
from objemb.structures import Photo
from tests.tiny import TinyBackbone, plain_photo, random_photo

pytest.importorskip("scipy")

NETWORK = {"name": "narrow_resnet", "width": 4, "blocks": [1, 1, 1, 1], "weights": "random"}
MINIMAL = {"backbone": NETWORK, "size": 64}


class Brightness(TinyBackbone):
    """Maps of strides 8 and 16 with one channel, the red above a fifth, and another that is never active."""

    def __init__(self) -> None:
        super().__init__(stride=16, channels=2)
        self.stages = {8: ("fine", 2), 16: ("coarse", 2)}

    def maps(self, pixels: Tensor, coarsest: int | None = None) -> dict[int, Tensor]:
        means = {s: torch.nn.functional.avg_pool2d((pixels[:, :1] - 0.2).relu(), s) for s in self.stages}
        return {s: torch.cat([m, torch.zeros_like(m)], dim=1) for s, m in means.items()}

    def offsets(self) -> dict[int, float]:
        return {8: 0.0, 16: 0.0}


def photo_with(*boxes: tuple[int, int, int, int], red: int = 250, around: int = 50) -> Photo:
    pixels = np.full((3, 128, 128), around, np.uint8)
    for x1, y1, x2, y2 in boxes:
        pixels[:, y1:y2, x1:x2] = red
    return Photo("bright", pixels, (128, 128))


def detector(**settings: Any) -> ActivationComponents:
    return ActivationComponents(backbone=Brightness(), **{"size": 128, **settings})


def test_a_bright_object_is_a_box_with_its_contrast_and_size() -> None:
    (found,) = detector(nms_iou=0.5).detect([photo_with((32, 16, 64, 80))])
    assert found.boxes[0].tolist() == [32, 16, 64, 80]
    assert found.scores[0] == pytest.approx((32 * 64 / 128**2) ** 0.5, abs=1e-5)
    assert len(found) == 1
    assert found.labels.tolist() == [0]


def test_several_objects_the_larger_one_first() -> None:
    (found,) = detector().detect([photo_with((0, 0, 16, 16), (64, 64, 112, 128))])
    assert found.boxes[:2].tolist() == [[64, 64, 112, 128], [0, 0, 16, 16]]
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


def test_what_is_fine_is_seen_on_the_fine_map_alone() -> None:
    """An object of one fine cell is a quarter of a coarse one, of which a threshold makes a box of 16 pixels."""
    photo = photo_with((8, 8, 16, 16))
    (both,) = detector().detect([photo])
    (coarse,) = detector(finest=16).detect([photo])
    assert both.boxes.tolist() == [[0, 0, 16, 16], [8, 8, 16, 16]]
    assert coarse.boxes.tolist() == [[0, 0, 16, 16]]
    assert both.scores.tolist() == pytest.approx([1 / 8, 1 / 16], abs=1e-5)


def test_boxes_are_in_original_pixels() -> None:
    photo = photo_with((32, 16, 64, 80))
    large = Photo("large", photo.pixels, (1280, 640))
    (small,), (big,) = detector().detect([photo]), detector().detect([large])
    assert big.boxes.tolist() == [[5 * x1, 10 * y1, 5 * x2, 10 * y2] for x1, y1, x2, y2 in small.boxes.tolist()]
    (enlarged,) = detector(size=256).detect([photo])
    np.testing.assert_allclose(enlarged.boxes[0], [32, 16, 64, 80], atol=4)


def test_a_rarely_active_channel_counts_more() -> None:
    """Two channels of equal values, one in a quarter of the cells, the other in half of them, weigh log 4 and log 2."""
    map_ = torch.tensor([[[1.0, 0], [0, 0]], [[0, 1.0], [0, 1]]])
    expected = torch.tensor([[4.0, 2], [0, 2]]).log().clamp_min(0)
    torch.testing.assert_close(activation_components._activation(map_[None])[0], expected, rtol=0, atol=5e-3)


def test_contrast_of_every_box_by_hand() -> None:
    total = torch.tensor([[1.0, 1, 1, 1], [1, 5, 3, 1], [1, 1, 1, 1]]).double()
    cells = torch.tensor([[1, 1, 2, 2], [1, 1, 3, 2], [3, 0, 4, 1], [0, 0, 4, 3]])
    expected = [1 - (10 / 8) / 5, 1 - 1 / 4, 1 - (5 / 3) / 1, 0]
    assert activation_components._contrast(total, cells).tolist() == pytest.approx(expected)
    assert activation_components._contrast(total * 0, cells).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("photo", [plain_photo(64, 64, (0, 0, 0)), plain_photo(64, 64, (90, 90, 90))])
def test_nothing_stands_out(photo: Photo) -> None:
    assert [len(found) for found in detector().detect([photo])] == [0]


def test_limits() -> None:
    photo = photo_with((0, 0, 16, 16), (32, 32, 64, 64), (64, 96, 128, 112))
    (every,) = detector(nms_iou=1.0, max_detections=1000).detect([photo])
    (few,) = detector(nms_iou=1.0, max_detections=3).detect([photo])
    (distinct,) = detector(nms_iou=0.1, max_detections=1000).detect([photo])
    assert np.array_equal(few.boxes, every.boxes[:3])
    assert 0 < len(distinct) < len(every)
    assert (every.scores > 0).all()
    assert (every.scores <= 1).all()
    assert detector().decode_side() == 128


def test_photos_of_one_shape_share_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    made = detector()
    maps, passes = made.backbone.maps, []
    monkeypatch.setattr(made.backbone, "maps", lambda pixels: passes.append(len(pixels)) or maps(pixels))
    made.detect([random_photo(64, 64, seed=n) for n in range(3)] + [random_photo(32, 64)])
    assert passes == [3, 1]


def test_mistakes_are_named() -> None:
    with pytest.raises(TypeError, match="backbone: expected one with maps of several strides"):
        ActivationComponents(backbone=TinyBackbone())
    network = NarrowResnet(width=4, blocks=[1, 1, 1, 1], weights="random")
    for name, value in (("size", 0), ("finest", 64), ("nms_iou", 2), ("max_detections", 0)):
        with pytest.raises(ValueError, match=name):
            ActivationComponents(backbone=network, **{name: value})
