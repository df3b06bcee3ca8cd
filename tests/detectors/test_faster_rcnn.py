from __future__ import annotations

from pathlib import Path

import pytest
import torch

from objemb.backbones.narrow_resnet import NarrowResnet
from objemb.backbones.timm_net import TimmNet
from objemb.backbones.torchvision_cnn import TorchvisionCnn
from objemb.detectors.faster_rcnn import FasterRcnn
from objemb.structures import Photo, Regions
from objemb.weights.read import UnreadableWeightsError
from tests.small_settings import FASTER
from tests.tiny import TinyBackbone, plain_photo, random_photo

MINIMAL = FASTER

SMALL = {
    "pyramid_strides": [8, 16],
    "channels": 8,
    "box_width": 16,
    "min_size": 64,
    "max_size": 96,
    "score_threshold": 0.0,
    "max_detections": 6,
}


def trunk(**arguments) -> NarrowResnet:
    return NarrowResnet(**{"width": 4, "blocks": [1, 1, 1, 1], **arguments})


def tiny(**arguments) -> FasterRcnn:
    torch.manual_seed(0)
    return FasterRcnn(trunk(), **{**SMALL, **arguments})


@pytest.fixture(scope="module")
def detector() -> FasterRcnn:
    return tiny()


def same(first: Regions, second: Regions) -> None:
    torch.testing.assert_close(torch.as_tensor(first.boxes), torch.as_tensor(second.boxes), rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(torch.as_tensor(first.scores), torch.as_tensor(second.scores), rtol=1e-4, atol=1e-4)


def test_boxes_equal_those_of_torchvision(detector: FasterRcnn) -> None:
    photo = random_photo(64, 96)  # no padding, which torchvision fills with black and the detector with the mean colour
    found = detector.detect([photo])[0]
    with torch.no_grad():
        expected = detector.network([torch.as_tensor(photo.pixels).float() / 255])[0]
    assert len(found) == 6
    torch.testing.assert_close(torch.as_tensor(found.boxes), expected["boxes"], rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(torch.as_tensor(found.scores), expected["scores"])
    assert set(found.labels.tolist()) == {0}


def test_the_first_photo_decides_nothing(detector: FasterRcnn) -> None:
    """torchvision takes the scales of the levels from the first photo, and a strip of a pixel gives other ones."""
    photo = random_photo(64, 96)
    other = tiny()
    other.detect([random_photo(1, 90)])
    same(other.detect([photo])[0], detector.detect([photo])[0])


def test_levels_are_those_of_the_pyramid_and_all_of_the_trunk(detector: FasterRcnn) -> None:
    assert detector.pyramid == ("0", "1")
    assert detector.levels() == {
        "0": (8, 8), "1": (8, 16), "trunk4": (4, 4), "trunk8": (8, 8), "trunk16": (32, 16),
    }  # fmt: skip
    batch = detector.preprocess([random_photo(64, 90), random_photo(64, 90, seed=1)])
    with torch.no_grad():
        maps = detector.features(batch)
        for stride, level in detector.backbone.maps(batch.tensors).items():
            assert torch.equal(maps[f"trunk{stride}"], level)
    for name, (channels, stride) in detector.levels().items():
        assert maps[name].shape == (2, channels, *(s // stride for s in batch.tensors.shape[2:]))


def test_trunks_of_torchvision() -> None:
    torch.manual_seed(0)
    detector = FasterRcnn(TorchvisionCnn("mobilenet_v2"), **{**SMALL, "pyramid_strides": [4, 32]})
    assert detector.levels() == {
        "0": (8, 4), "1": (8, 32), "trunk4": (24, 4), "trunk8": (32, 8), "trunk16": (96, 16), "trunk32": (1280, 32),
    }  # fmt: skip
    assert len(detector.detect([random_photo(50, 70)])[0]) == 6


def test_trunks_of_timm() -> None:
    pytest.importorskip("timm")
    torch.manual_seed(0)
    detector = FasterRcnn(TimmNet("test_efficientnet"), **{**SMALL, "pyramid_strides": [4, 32]})
    assert detector.levels() == {
        "0": (8, 4), "1": (8, 32), "trunk4": (24, 4), "trunk8": (32, 8), "trunk16": (48, 16), "trunk32": (64, 32),
    }  # fmt: skip
    assert len(detector.detect([random_photo(50, 70)])[0]) == 6


def test_the_backbone_alone_normalises(detector: FasterRcnn) -> None:
    colour = tuple(round(255 * v) for v in (0.485, 0.456, 0.406))
    tensors = detector.preprocess([plain_photo(64, 70, colour)]).tensors  # type: ignore[arg-type]
    assert tensors.shape == (1, 3, 64, 96)
    assert tensors.flatten(2).std(dim=2).max() < 2e-3, "padded with the mean colour"
    assert [round(v, 3) for v in (*detector.mean.tolist(), *detector.std.tolist())] == [
        0.485, 0.456, 0.406, 0.229, 0.224, 0.225,
    ]  # fmt: skip


def test_photos_do_not_change_each_other(detector: FasterRcnn) -> None:
    photos = [random_photo(70, 101), random_photo(101, 70), random_photo(71, 100, seed=1), random_photo(1, 1)]
    for photo, found in zip(photos, detector.detect(photos), strict=True):
        same(found, detector.detect([photo])[0])
    assert detector.detect([]) == []


def test_anchors_follow_the_strides(detector: FasterRcnn) -> None:
    assert detector.network.rpn.anchor_generator.sizes == ((64,), (128,), (256,))
    assert tiny(anchor_sizes=[24, 48, 96]).network.rpn.anchor_generator.sizes == ((24,), (48,), (96,))


def test_several_sizes_of_anchors_a_level() -> None:
    one = tiny(anchor_sizes=[24, 48, 96])
    listed = tiny(anchor_sizes=[[24], [48], [96]])
    photo = random_photo(64, 96)
    same(listed.detect([photo])[0], one.detect([photo])[0])

    detector = tiny(anchor_sizes=[[20, 32], [48, 76], [120, 190.5]])
    assert detector.network.rpn.anchor_generator.sizes == ((20, 32), (48, 76), (120, 190.5))
    # height / width of 0.5, 1 and 2 at the same area, each with both sides; half a side is rounded to whole pixels
    sides = detector.network.rpn.anchor_generator.cell_anchors[0]
    assert (sides[:, 2:] - sides[:, :2]).tolist() == [[28, 14], [46, 22], [20, 20], [32, 32], [14, 28], [22, 46]]
    assert detector.network.rpn.head.cls_logits.out_channels == 6
    assert detector.network.rpn.head.bbox_pred.out_channels == 24
    assert len(detector.detect([photo])[0]) == 6

    own = Regions(torch.tensor([[5.0, 5.0, 60.0, 50.0]]), photo.size, labels=torch.tensor([0]))
    batch = detector.preprocess([photo])
    losses = detector.losses(batch, detector.features(batch), [own], [photo])
    assert all(torch.isfinite(value) for value in losses.values())


def test_weights_of_the_whole_or_of_a_model(tmp_path: Path, detector: FasterRcnn) -> None:
    photo = random_photo(64, 80)
    torch.save(detector.network.state_dict(), tmp_path / "own.pth")
    same(tiny(weights=tmp_path / "own.pth").detect([photo])[0], detector.detect([photo])[0])
    torch.save({f"regions.detector.{k}": v for k, v in detector.state_dict().items()}, tmp_path / "model.pth")
    same(tiny(weights=tmp_path / "model.pth").detect([photo])[0], detector.detect([photo])[0])
    with pytest.raises(ValueError, match=r"weights for 3 classes, found 1; pass num_classes=1"):
        tiny(weights=tmp_path / "own.pth", num_classes=3)
    with pytest.raises(UnreadableWeightsError, match=r"own\.pth"):
        tiny(weights=tmp_path / "own.pth", channels=16)


def test_other_classes_on_the_same_features(tmp_path: Path, detector: FasterRcnn) -> None:
    torch.save(detector.network.state_dict(), tmp_path / "own.pth")
    other = tiny(weights=tmp_path / "own.pth", num_classes=3, new_classes=True)
    for name, value in detector.network.state_dict().items():
        kept = other.network.state_dict()[name]
        assert "box_predictor" in name or torch.equal(kept, value)
    assert other.num_classes == 3


def test_a_trunk_starts_from_a_detector(tmp_path: Path, detector: FasterRcnn) -> None:
    torch.save({f"regions.detector.{k}": v for k, v in detector.state_dict().items()}, tmp_path / "model.pth")
    taken = trunk(weights=tmp_path / "model.pth")
    for name, value in detector.backbone.state_dict().items():
        assert torch.equal(taken.state_dict()[name], value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pyramid_strides": [8, 32]}, "pyramid_strides: expected one of 4, 8, 16, found 32"),
        ({"pyramid_strides": []}, "pyramid_strides: expected a list of at least one item"),
        ({"num_classes": 0}, "num_classes: expected an integer of 1 or more"),
        ({"num_classes": 3, "classes": ["a"]}, "expected 3 names as num_classes says, found 1"),
        ({"anchor_sizes": [24, 48]}, r"anchor_sizes: expected one for each of the strides \[8, 16, 32\]"),
        ({"anchor_sizes": []}, "anchor_sizes: expected a list of at least one item"),
        ({"anchor_sizes": [[24], [], [96]]}, r"anchor_sizes: expected a list of at least one item, found \[\]"),
        ({"anchor_sizes": [24, "48", 96]}, "anchor_sizes: expected a list of at least one item, found '48'"),
        ({"anchor_sizes": [[24, 32], [48, -1], [96, 150]]}, "anchor_sizes: expected a number above 0, found -1"),
        ({"anchor_sizes": [[24, 32], 48, 96]}, r"equally many for each level.*found \[\[24, 32\], 48, 96\]"),
        ({"proposals": 0}, "proposals"),
        ({"proposal_batch_per_image": 0}, "proposal_batch_per_image"),
        ({"weights": "nothing.pth"}, "expected a file or a model folder, found no file"),
    ],
)
def test_mistakes_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(Exception, match=message):
        tiny(**arguments)


def test_backbones_with_one_map_are_refused() -> None:
    with pytest.raises(TypeError, match=r"expected one with maps of several strides.*found TinyBackbone"):
        FasterRcnn(TinyBackbone(), **SMALL)


def test_stays_in_eval_mode(detector: FasterRcnn) -> None:
    assert not any(m.training for m in detector.train().modules())
    assert detector.decode_side() == 96
    assert tiny(classes=["cup", "pot"]).classes == ("cup", "pot")


def test_a_single_object_counts_for_more_among_fewer_anchors() -> None:
    """The loss of its box is a sum over its anchors, divided by the number of all that were sampled."""
    photo, truth = random_photo(64, 96), [Regions(torch.tensor([[8.0, 8.0, 40.0, 36.0]]), (64, 96))]
    losses = {}
    for count in (16, 64):
        few = tiny(proposal_batch_per_image=count, anchor_sizes=[32, 64, 96])
        seen = few.preprocess([photo])
        losses[count] = few.proposal_losses(seen, few.features(seen), truth)["loss_rpn_box_reg"]
    assert losses[16] > 0
    torch.testing.assert_close(losses[16], 4 * losses[64])


def test_proposals_are_in_pixels_of_the_photo(detector: FasterRcnn) -> None:
    photo = random_photo(60, 90)
    large = Photo("large", photo.pixels, (120, 180))
    batch = detector.preprocess([photo, large])
    found = detector.proposals(batch, detector.features(batch), [photo, large])
    with torch.no_grad():
        expected, _ = detector.network.rpn(batch, {k: v for k, v in detector.features(batch).items() if "t" not in k})
    assert len(found[0]) > 10
    torch.testing.assert_close(
        torch.as_tensor(found[0].boxes), (expected[0] * 60 / 64).clamp_max(90), rtol=1e-4, atol=1e-2
    )
    torch.testing.assert_close(
        torch.as_tensor(found[1].boxes), 2 * torch.as_tensor(found[0].boxes), rtol=1e-4, atol=1e-2
    )
