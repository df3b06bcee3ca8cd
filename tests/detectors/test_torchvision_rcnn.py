from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models import detection

from objemb.checks import MissingWeightsError
from objemb.detectors.torchvision_rcnn import TorchvisionRcnn, add_eps
from objemb.structures import Regions
from objemb.weights import download
from objemb.weights.read import UnreadableWeightsError
from tests.small_settings import RCNN
from tests.tiny import noise_photo

MINIMAL = RCNN

SMALL = {"min_size": 64, "max_size": 96, "score_threshold": 0.0, "max_detections": 6}
LIGHT = "fasterrcnn_mobilenet_v3_large_320_fpn"


@pytest.fixture(scope="module")
def light() -> TorchvisionRcnn:
    torch.manual_seed(0)
    return TorchvisionRcnn(LIGHT, **SMALL)


@pytest.fixture(scope="module")
def masked() -> TorchvisionRcnn:
    torch.manual_seed(0)
    return TorchvisionRcnn("maskrcnn_resnet50_fpn", num_classes=3, **SMALL)


def same(first: Regions, second: Regions) -> None:
    torch.testing.assert_close(torch.as_tensor(first.boxes), torch.as_tensor(second.boxes), rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(torch.as_tensor(first.scores), torch.as_tensor(second.scores), rtol=1e-4, atol=1e-4)
    assert torch.equal(torch.as_tensor(first.labels), torch.as_tensor(second.labels))


def test_boxes_equal_those_of_torchvision(light: TorchvisionRcnn) -> None:
    given = noise_photo(70, 101)
    found = light.detect([given])[0]
    with torch.no_grad():
        expected = light.network([torch.as_tensor(given.pixels).float() / 255])[0]
    assert len(found) == 6
    torch.testing.assert_close(torch.as_tensor(found.boxes), expected["boxes"], rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(torch.as_tensor(found.scores), expected["scores"])
    assert torch.equal(torch.as_tensor(found.labels), expected["labels"] - 1)


def test_boxes_are_in_original_pixels(light: TorchvisionRcnn) -> None:
    decoded, original = noise_photo(70, 101), noise_photo(70, 101, size=(280, 303))
    small, large = light.detect([decoded])[0], light.detect([original])[0]
    assert large.size == (280, 303)
    torch.testing.assert_close(
        torch.as_tensor(large.boxes), torch.as_tensor(small.boxes) * torch.tensor([3.0, 4.0, 3.0, 4.0])
    )


def test_photos_do_not_change_each_other(light: TorchvisionRcnn) -> None:
    photos = [
        noise_photo(70, 101),
        noise_photo(101, 70),
        noise_photo(71, 100, seed=1),
        noise_photo(20, 300),
        noise_photo(64, 64),
    ]
    together = light.detect(photos)
    for given, found in zip(photos, together, strict=True):
        assert found.size == given.size
        same(found, light.detect([given])[0])


def test_nothing_and_slivers_are_normal(light: TorchvisionRcnn, masked: TorchvisionRcnn) -> None:
    assert light.detect([]) == []
    for detector in (light, masked):
        for found in detector.detect([noise_photo(1, 1), noise_photo(1, 900), noise_photo(900, 1)]):
            assert bool((found.scores[:-1] >= found.scores[1:]).all())
    blind = TorchvisionRcnn("maskrcnn_resnet50_fpn", **{**SMALL, "score_threshold": 1.0})
    found = blind.detect([noise_photo(64, 64)])[0]
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)
    assert found.extras["masks"].shape == (0, 28, 28)


def test_masks_are_the_28_by_28_within_the_box(masked: TorchvisionRcnn) -> None:
    given = noise_photo(64, 96)
    found = masked.detect([given])[0]
    masks = found.array("masks")
    assert masks.shape == (len(found), 28, 28)
    assert masks.dtype == np.uint8
    assert masks.any(axis=(1, 2)).all()
    batch = masked.preprocess([given])
    with torch.no_grad():
        raw = masked.boxes(batch, masked.features(batch))[0]["masks"][:, 0] >= 0.5
    some = raw.flatten(1).any(1)
    assert np.array_equal(masks[some] > 0, raw[some])
    assert (masks[~some] == 1).all()


def test_levels_are_those_that_boxes_are_pooled_from(light: TorchvisionRcnn, masked: TorchvisionRcnn) -> None:
    assert (light.pyramid, masked.pyramid) == (("0", "1"), ("0", "1", "2", "3"))
    trunk = {"trunk4": (24, 4), "trunk8": (40, 8), "trunk16": (112, 16), "trunk32": (960, 32)}
    assert light.levels() == {"0": (256, 32), "1": (256, 32), **trunk}
    trunk = {"trunk4": (256, 4), "trunk8": (512, 8), "trunk16": (1024, 16), "trunk32": (2048, 32)}
    assert masked.levels() == {"0": (256, 4), "1": (256, 8), "2": (256, 16), "3": (256, 32), **trunk}
    for detector in (light, masked):
        batch = detector.preprocess([noise_photo(70, 101), noise_photo(70, 101, seed=1)])
        with torch.no_grad():
            maps = detector.features(batch)
        for name, (channels, stride) in detector.levels().items():
            assert maps[name].shape == (2, channels, *(s // stride for s in batch.tensors.shape[2:]))


def test_the_parts_give_what_detect_gives(masked: TorchvisionRcnn) -> None:
    photos = [noise_photo(64, 90), noise_photo(64, 90, size=(128, 180), seed=1), noise_photo(90, 64)]
    assert masked.groups(photos) == [[0, 1], [2]]
    assert masked.groups([]) == []
    batch = masked.preprocess(photos[:2])
    with torch.no_grad():
        regions = masked.regions(batch, masked.features(batch), photos[:2])
    for found, expected in zip(regions, masked.detect(photos), strict=False):
        assert torch.equal(torch.as_tensor(found.boxes), torch.as_tensor(expected.boxes))
        assert np.array_equal(found.array("masks"), expected.array("masks"))


def test_what_reaches_the_network(light: TorchvisionRcnn) -> None:
    assert light.decode_side() == 96
    sides = [
        max(s)
        for p in (noise_photo(70, 101), noise_photo(1, 900), noise_photo(64, 64))
        for s in light.preprocess([p]).image_sizes
    ]
    assert max(sides) == 96
    assert [round(v, 3) for v in (*light.mean.tolist(), *light.std.tolist())] == [
        0.485, 0.456, 0.406, 0.229, 0.224, 0.225,
    ]  # fmt: skip


def test_every_arch_is_built_without_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", pytest.fail)
    for arch in models.list_models(module=detection):
        if arch.startswith(("fasterrcnn", "maskrcnn")):
            detector = TorchvisionRcnn(arch, num_classes=1)
            assert detector.network.roi_heads.box_predictor.cls_score.out_features == 2
            assert not any(m.training for m in detector.train().modules())


def test_class_names(light: TorchvisionRcnn) -> None:
    assert len(light.classes) == 90
    assert (light.classes[0], light.classes[11], light.classes[-1]) == ("person", "N/A", "toothbrush")
    own = TorchvisionRcnn(LIGHT, classes=["cup", "pot"], **SMALL)
    assert own.classes == ("cup", "pot")
    assert set(own.detect([noise_photo(64, 64)])[0].label_names) <= {"cup", "pot"}
    assert TorchvisionRcnn(LIGHT, num_classes=2).classes == ()


def test_settings_reach_the_network() -> None:
    detector = TorchvisionRcnn(LIGHT, score_threshold=0.2, nms_iou=0.3, max_detections=9, min_size=100, max_size=200)
    heads, transform = detector.network.roi_heads, detector.network.transform
    assert (heads.score_thresh, heads.nms_thresh, heads.detections_per_img) == (0.2, 0.3, 9)
    assert (transform.min_size, transform.max_size) == ((100,), 200)
    assert TorchvisionRcnn(LIGHT).network.transform.min_size == (320,)


def test_weights_come_from_a_file(tmp_path: Path, light: TorchvisionRcnn) -> None:
    torch.save({"model": light.network.state_dict()}, tmp_path / "a.pth")
    loaded = TorchvisionRcnn(LIGHT, weights=tmp_path / "a.pth", **SMALL)
    same(loaded.detect([noise_photo(64, 80)])[0], light.detect([noise_photo(64, 80)])[0])
    with pytest.raises(ValueError, match=r"weights for 2 classes, found 90; pass num_classes=90"):
        TorchvisionRcnn(LIGHT, weights=tmp_path / "a.pth", num_classes=2)
    with pytest.raises(UnreadableWeightsError, match=r"a\.pth"):
        TorchvisionRcnn("fasterrcnn_resnet50_fpn", weights=tmp_path / "a.pth")


def test_old_names_of_published_weights_are_translated(tmp_path: Path, light: TorchvisionRcnn) -> None:
    """Published files are of a time when the layers of pyramid and proposals had one level less."""
    state = {k: v for k, v in light.network.state_dict().items() if not k.endswith("num_batches_tracked")}
    pattern = re.compile(r"((?:inner|layer)_blocks\.\d|rpn\.head\.conv)(?:\.0)+\.")
    old = {pattern.sub(r"\1.", k): v for k, v in state.items()}
    assert old.keys() != state.keys()
    torch.save(old, tmp_path / "a.pth")
    loaded = TorchvisionRcnn(LIGHT, weights=tmp_path / "a.pth", **SMALL)
    same(loaded.detect([noise_photo(64, 80)])[0], light.detect([noise_photo(64, 80)])[0])


def test_batch_norms_trained_without_eps_compute_what_they_were_trained_to() -> None:
    torch.manual_seed(0)
    trained = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, eps=0.0)).eval()
    trained[1].running_var.copy_(torch.tensor([1.0, 1e-3, 1e-6, 1e-12]))
    nn.init.normal_(trained[1].weight)
    usual = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    state = trained.state_dict()
    add_eps(usual, state)
    usual.load_state_dict(state)
    pixels = torch.rand(2, 3, 5, 5)
    with torch.no_grad():
        torch.testing.assert_close(usual(pixels), trained(pixels), rtol=1e-4, atol=1e-4)


def test_eps_is_added_for_the_published_file_only(tmp_path: Path) -> None:
    arch = "fasterrcnn_resnet50_fpn"
    state = TorchvisionRcnn(arch).network.state_dict()
    published = models.get_model_weights(arch).DEFAULT.url.rsplit("/", 1)[-1]
    key = "backbone.body.bn1.weight"
    for name, factor in ((published, (1 + 1e-5) ** 0.5), ("own.pth", 1.0)):
        torch.save(state, tmp_path / name)
        loaded = TorchvisionRcnn(arch, weights=tmp_path / name).network.state_dict()
        torch.testing.assert_close(loaded[key], state[key] * factor, rtol=1e-7, atol=0)


def test_without_network_the_error_says_what_to_place_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args, **kwargs):
        raise OSError("unreachable")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(download, "urlopen", refuse)
    with pytest.raises(MissingWeightsError, match=r"unreachable.*checkpoints/fasterrcnn_mobilenet\w+-\w+\.pth"):
        TorchvisionRcnn(LIGHT, weights="COCO_V1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"arch": "retinanet_resnet50_fpn"}, "arch: expected one of 'fasterrcnn"),
        ({"weights": "COCO_V7"}, r"found 'COCO_V7' \(did you mean 'COCO_V1'"),
        ({"num_classes": 3, "classes": ["a"]}, "expected 3 names as num_classes says, found 1"),
        ({"num_classes": 0}, "num_classes"),
        ({"classes": []}, "number of classes"),
        ({"score_threshold": 2}, "score_threshold: expected a number from 0 to 1"),
        ({"min_size": 0}, "min_size: expected an integer of 1 or more"),
        ({"max_detections": -1}, "max_detections"),
    ],
)
def test_mistakes_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TorchvisionRcnn(**{"arch": LIGHT, **arguments})
