from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from objemb.backbones.torchvision_cnn import TorchvisionCnn
from objemb.describers._windows import windows_around
from objemb.describers.one_pass import OnePass
from objemb.detectors.base import Detector
from objemb.detectors.capabilities import NetworkInput
from objemb.detectors.faster_rcnn import FasterRcnn
from objemb.detectors.torchvision_rcnn import TorchvisionRcnn
from objemb.heads.embedding import EmbeddingHead
from objemb.heads.tail import Tail
from objemb.layers.whitening import Whitening
from objemb.ops.windows import input_windows
from objemb.pooling.mean import Mean
from objemb.regions.detections import Detections
from objemb.regions.patchify import Patchify
from objemb.regions.union import Union
from objemb.structures import Photo, Regions
from tests.small_settings import RCNN
from tests.tiny import random_photo

MINIMAL = {
    "detector": {"name": "torchvision_rcnn", **RCNN},
    "head": {"name": "embedding", "dim": 6, "width": 8},
    "min_score": 0.0,
}

LIGHT = "fasterrcnn_mobilenet_v3_large_320_fpn"
SMALL = {"num_classes": 3, "min_size": 64, "max_size": 128, "score_threshold": 0.0, "max_detections": 6}
PHOTO, OTHER, TALL = random_photo(60, 90, id="a"), random_photo(60, 90, seed=1, id="b"), random_photo(90, 60, id="c")
BOXES = Regions(torch.tensor([[3.0, 4, 50, 30], [7, 7, 7, 7], [0, 0, 90, 60]]), PHOTO.size)


def student(arch: str = LIGHT, **arguments: Any) -> OnePass:
    torch.manual_seed(0)
    head = EmbeddingHead(dim=8, width=16)
    return OnePass(detector=TorchvisionRcnn(arch, **SMALL), head=head, **{"min_score": 0.0, **arguments})


@pytest.fixture(scope="module")
def one() -> OnePass:
    return student()


class Calls:
    """How often modules run, and on how many images."""

    def __init__(self, **modules: nn.Module) -> None:
        self.counts: dict[str, int] = dict.fromkeys(modules, 0)
        self.hooks = [m.register_forward_pre_hook(self._count(name)) for name, m in modules.items()]

    def _count(self, name: str) -> Any:
        def count(*_: object) -> None:
            self.counts[name] += 1

        return count

    def __enter__(self) -> dict[str, int]:
        return self.counts

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()


def calls(one: OnePass) -> Calls:
    network = one.detector.network
    return Calls(backbone=network.backbone.fpn, rpn=network.rpn, roi_heads=network.roi_heads, head=one.head.trunk)


def test_the_regions_are_those_of_the_two_pass_describers(one: OnePass) -> None:
    scores = torch.as_tensor(one.detector.detect([PHOTO])[0].scores)
    selection = {"min_score": float(scores[-2]), "nms_iou": 0.9, "max_regions": 4}
    source = Detections(detector=one.detector, **selection)
    described = OnePass(detector=one.detector, head=EmbeddingHead(), **selection).describe([PHOTO, TALL])
    assert 1 < len(described[0]) <= 5
    for found, expected in zip(described, source.find([PHOTO, TALL]), strict=True):
        assert torch.equal(torch.as_tensor(found.regions.boxes), torch.as_tensor(expected.boxes))
        assert torch.equal(torch.as_tensor(found.regions.scores), torch.as_tensor(expected.scores))
        assert torch.equal(torch.as_tensor(found.regions.labels), torch.as_tensor(expected.labels))
        assert found.regions.labels[0] == -1


def test_one_pass_of_the_backbone_for_boxes_and_vectors(one: OnePass) -> None:
    with calls(one) as counts:
        one.describe([PHOTO, OTHER])
    assert counts == {"backbone": 1, "rpn": 1, "roi_heads": 1, "head": 1}
    with calls(one) as counts:
        one.describe([PHOTO, TALL])
    assert counts["backbone"] == 2, "photos of another shape share no batch"


def test_given_boxes_skip_detection(one: OnePass) -> None:
    with calls(one) as counts:
        described = one.describe([PHOTO, OTHER], [BOXES, Regions.empty(OTHER.size)])
    assert counts == {"backbone": 1, "rpn": 0, "roi_heads": 0, "head": 1}
    assert torch.equal(torch.as_tensor(described[0].regions.boxes), torch.as_tensor(BOXES.boxes))
    assert described[1].vectors.shape == (0, 8)


def test_looking_and_given_in_one_batch(one: OnePass) -> None:
    mixed = one.describe([PHOTO, OTHER, TALL], [None, BOXES, None])
    assert [d.image for d in mixed] == ["a", "b", "c"]
    assert torch.allclose(
        torch.as_tensor(mixed[0].vectors), torch.as_tensor(one.describe([PHOTO])[0].vectors), atol=1e-5
    )
    assert torch.allclose(
        torch.as_tensor(mixed[1].vectors), torch.as_tensor(one.describe([OTHER], [BOXES])[0].vectors), atol=1e-5
    )


def test_a_box_has_one_vector_whether_found_or_given(one: OnePass) -> None:
    found = one.describe([PHOTO])[0]
    given = one.describe([PHOTO], [found.regions])[0]
    assert len(found) > 1
    assert torch.allclose(torch.as_tensor(given.vectors), torch.as_tensor(found.vectors), atol=1e-5)


def test_the_vectors_are_those_of_the_head_on_boxes_of_the_network(one: OnePass) -> None:
    """A photo of 60 x 90 enters as 64 x 96; one that was decoded at half its size has boxes twice as large."""
    batch = one.detector.preprocess([PHOTO])
    assert batch.image_sizes == [(64, 96)]
    features = one.detector.features(batch)
    with torch.no_grad():
        expected = one.head([features[name] for name in one.levels], [torch.as_tensor(BOXES.boxes) * 64 / 60])
    assert torch.allclose(torch.as_tensor(one.describe([PHOTO], [BOXES])[0].vectors), expected, atol=1e-5)
    halved = Photo("half", PHOTO.pixels, (120, 180))
    twice = Regions(2 * BOXES.boxes, (120, 180))
    assert torch.allclose(torch.as_tensor(one.describe([halved], [twice])[0].vectors), expected, atol=1e-5)


def test_padding_is_not_part_of_the_whole_image(one: OnePass) -> None:
    photo = random_photo(60, 75, id="padded")
    batch = one.detector.preprocess([photo])
    assert (batch.image_sizes[0], tuple(batch.tensors.shape[2:])) == ((64, 80), (64, 96))
    features = one.detector.features(batch)
    with torch.no_grad():
        whole = one.head([features[name] for name in one.levels], [torch.tensor([[0.0, 0, 80, 64]])])
    assert torch.allclose(torch.as_tensor(one.describe([photo])[0].vectors)[:1], whole, atol=1e-5)


def test_no_detections_leave_the_whole_image(one: OnePass) -> None:
    blind = student(min_score=1.0)
    described = blind.describe([PHOTO])[0]
    assert described.regions.boxes.tolist() == [[0, 0, 90, 60]]
    assert torch.allclose(
        torch.as_tensor(described.vectors), torch.as_tensor(one.describe([PHOTO])[0].vectors)[:1], atol=1e-5
    )


def test_masks_ride_along() -> None:
    described = student("maskrcnn_resnet50_fpn").describe([PHOTO])[0]
    masks = described.regions.extras["masks"]
    assert masks.shape == (len(described), 28, 28)
    assert bool((masks[0] == 1).all())


def test_all_levels_that_the_detector_pools_from() -> None:
    one = student("fasterrcnn_resnet50_fpn")
    assert one.levels == ("0", "1", "2", "3")
    assert one.head.strides == (4, 8, 16, 32)
    assert one.head.channels == (256, 256, 256, 256)


def test_whitening(one: OnePass) -> None:
    plain = one.describe([PHOTO, OTHER])
    whitened = student()
    whitened.whitening = Whitening.fit(torch.cat([torch.as_tensor(d.vectors) for d in plain]), 3, fitted_on="a test")
    assert whitened.dim == 3
    for before, after in zip(plain, whitened.describe([PHOTO, OTHER]), strict=True):
        assert torch.allclose(
            torch.as_tensor(after.vectors), whitened.whitening(torch.as_tensor(before.vectors)), atol=1e-4
        )


def test_the_head_does_not_touch_the_detector() -> None:
    torch.manual_seed(0)
    detector = TorchvisionRcnn(LIGHT, **SMALL)
    before = {k: v.clone() for k, v in detector.state_dict().items()}
    boxes = torch.as_tensor(detector.detect([PHOTO])[0].boxes)
    one = OnePass(detector=detector, head=EmbeddingHead(dim=8, width=16))
    one.describe([PHOTO])
    assert one.detector is detector
    assert all(torch.equal(v, before[k]) for k, v in detector.state_dict().items())
    assert torch.equal(torch.as_tensor(detector.detect([PHOTO])[0].boxes), boxes)
    assert {k.split(".")[0] for k in one.state_dict()} == {"head", "regions"}


def test_the_head_learns_without_the_detector(one: OnePass) -> None:
    """What a training step needs: frozen features, boxes in network pixels, a gradient for the head alone."""
    batch = one.detector.preprocess([PHOTO, OTHER])
    with torch.no_grad():
        features = one.detector.features(batch)
    boxes = [torch.tensor([[0.0, 0, 96, 64], [10, 10, 40, 50]]), torch.zeros(0, 4)]
    one.head([features[name] for name in one.levels], boxes)[:, 0].sum().backward()
    assert all(p.grad is not None for p in one.head.parameters())
    assert all(p.grad is None for p in one.detector.parameters())


def test_decode_side_is_the_longest_input() -> None:
    assert student().decode_side() == 128


class Boxes(Detector):
    """A detector without a network."""

    def detect(self, photos: Sequence[Photo]) -> list[Regions]:
        return [Regions.empty(p.size) for p in photos]


def test_mistakes_are_named(one: OnePass) -> None:
    with pytest.raises(TypeError, match="detector: expected a network such as torchvision_rcnn, found Boxes"):
        OnePass(detector=Boxes(), head=EmbeddingHead())
    for wrong, message in (
        ({"min_score": 2}, "min_score: expected a number from 0 to 1"),
        ({"max_regions": -1}, "max_regions: expected"),
    ):
        with pytest.raises(ValueError, match=message):
            OnePass(detector=one.detector, head=EmbeddingHead(), **wrong)
    with pytest.raises(ValueError, match=r"expected one per photo \(2\), found 1"):
        one.describe([PHOTO, TALL], [None])
    with pytest.raises(ValueError, match=r"regions of 'c': expected the image size \(90, 60\)"):
        one.describe([TALL], [BOXES])


def sized(object_side: float | None, **arguments: Any) -> OnePass:
    """A student on the trunk of a classification network, which sees photos of 128 pixels as they are."""
    torch.manual_seed(0)
    network = TorchvisionCnn(arch="mobilenet_v2")
    detector = FasterRcnn(network, min_size=96, max_size=128, pyramid_strides=[8, 16], channels=8, box_width=8)
    head = Tail(backbone=network, pooling=Mean(), dim=8, samples=5)
    return OnePass(detector=detector, head=head, object_side=object_side, **arguments)


@pytest.fixture(scope="module")
def every_size() -> OnePass:
    return sized(40)


LARGE = random_photo(96, 128, id="large")
#: Far below, just within, within and far above 40 pixels.
SIZES = Regions(torch.tensor([[10.0, 10, 16, 20], [20, 20, 50, 40], [60, 30, 100, 80], [0, 0, 128, 96]]), LARGE.size)


def test_boxes_of_the_learned_size_are_described_in_their_photo(every_size: OnePass) -> None:
    seen, plain = (torch.as_tensor(s.describe([LARGE], [SIZES])[0].vectors) for s in (every_size, sized(None)))
    same = [torch.allclose(a, b, atol=1e-5) for a, b in zip(seen, plain, strict=True)]
    assert same == [False, True, True, False]


def test_boxes_of_other_sizes_are_described_as_in_a_photo_where_they_have_it(every_size: OnePass) -> None:
    """The slow way: the window as a photo of its own, of the network's size, described by a student of one size."""
    plain = sized(None)
    (windows,) = (w for w in windows_around([LARGE], [SIZES], [False, False, False, True], 40.0, plain.detector.mean))
    batch = plain.detector.normalised(windows.pixels)
    with torch.no_grad():
        maps = plain.detector.features(batch)
        expected = plain.head([maps[name] for name in plain.levels], [windows.boxes])
    assert torch.allclose(torch.as_tensor(every_size.describe([LARGE], [SIZES])[0].vectors)[3:], expected, atol=1e-5)


def test_a_vector_depends_on_its_box_alone(every_size: OnePass) -> None:
    together = torch.as_tensor(every_size.describe([LARGE, TALL], [SIZES, None])[0].vectors)
    apart = torch.cat(
        [torch.as_tensor(every_size.describe([LARGE], [SIZES[n : n + 1]])[0].vectors) for n in range(len(SIZES))]
    )
    assert torch.allclose(together, apart, atol=1e-5)
    flipped = torch.as_tensor(every_size.describe([LARGE], [SIZES[[3, 1, 0, 2]]])[0].vectors)
    assert torch.allclose(flipped, apart[[3, 1, 0, 2]], atol=1e-5)


def test_found_and_given_boxes_of_every_size_have_one_vector(every_size: OnePass) -> None:
    found = every_size.describe([LARGE])[0]
    assert torch.allclose(
        torch.as_tensor(every_size.describe([LARGE], [found.regions])[0].vectors),
        torch.as_tensor(found.vectors),
        atol=1e-5,
    )


def test_a_picture_has_nearly_one_vector_whatever_its_size(every_size: OnePass) -> None:
    """Of one and of sixteen times as many pixels: what differs is how it was resampled."""
    pixels = (
        F.interpolate(torch.as_tensor(LARGE.pixels).float()[None], scale_factor=4, mode="bicubic")
        .clamp(0, 255)[0]
        .byte()
    )
    photos = [LARGE, Photo("enlarged", pixels, (384, 512)), random_photo(96, 128, seed=5)]
    first, enlarged, other = (every_size.describe([photo])[0].vectors[0] for photo in photos)
    assert 1 - float(first @ enlarged) < (1 - float(first @ other)) / 20


def test_windows_of_the_input() -> None:
    """The slow way: the window cut by hand from what the network sees of a photo of sixteen times as many pixels."""
    of_input, fine = sized(40, windows_from="input"), random_photo(384, 512, seed=2, id="fine")
    boxes = Regions(4 * SIZES.boxes, fine.size)
    found = torch.as_tensor(of_input.describe([fine], [boxes])[0].vectors)
    of_photo = torch.as_tensor(sized(40).describe([fine], [boxes])[0].vectors)
    same = [torch.allclose(a, b, atol=1e-5) for a, b in zip(found, of_photo, strict=True)]
    assert same == [False, True, True, False]
    batch = of_input.detector.preprocess([fine])
    (whole,) = input_windows(batch.tensors, batch.image_sizes, [torch.as_tensor(SIZES.boxes)[3:]], [True], 40.0, 16)
    with torch.no_grad():
        maps = of_input.detector.features(NetworkInput(whole.pixels, []))
        expected = of_input.head([maps[name] for name in of_input.levels], [whole.boxes])
    assert torch.allclose(found[3:], expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"windows_from: expected one of 'photo', 'input', found 'net'"):
        sized(40, windows_from="net")


def test_layers_run_only_for_what_needs_them(every_size: OnePass) -> None:
    network = every_size.detector.network.backbone.body.network
    with Calls(last=network.features.get_submodule("18"), first=network.features.get_submodule("0")) as counts:
        every_size.describe([LARGE], [SIZES[3:]])
    assert counts == {"last": 0, "first": 1}, "one window"
    with Calls(last=network.features.get_submodule("18"), first=network.features.get_submodule("0")) as counts:
        every_size.describe([LARGE], [SIZES])
    assert counts == {"last": 0, "first": 3}, "the photo, a window of a small object and one of a large object"


def test_gradients_reach_head_and_trunk_through_windows() -> None:
    one = sized(40)
    batch = one.detector.preprocess([LARGE])
    one.embed_boxes([LARGE], [SIZES[3:]], batch, unit=False)[:, 0].sum().backward()
    first = next(one.detector.backbone.parameters())
    assert first.grad is not None
    assert bool(first.grad.any())
    assert all(p.grad is not None for p in one.head.parameters())


def test_what_the_last_layer_reads_is_in_the_order_of_the_boxes(every_size: OnePass) -> None:
    batch = every_size.detector.preprocess([LARGE])
    pooled = every_size.embed_boxes([LARGE], [SIZES], batch, unit=False, projected=False)
    vectors = every_size.embed_boxes([LARGE], [SIZES], batch, unit=False)
    assert torch.allclose(every_size.head.expect_linear()(pooled), vectors, atol=1e-5)


def test_object_side_is_a_length() -> None:
    with pytest.raises(ValueError, match="object_side: expected a number above 0, found -3"):
        sized(-3)


def test_patches_beside_detections(one: OnePass) -> None:
    filled = student(max_regions=9, beside=[Patchify(levels=2)])
    assert isinstance(filled.regions, Union)
    for photo in (PHOTO, TALL):
        plain, more = one.describe([photo])[0], filled.describe([photo])[0]
        assert np.array_equal(more.regions.boxes[: len(plain)], plain.regions.boxes)
        patches = {tuple(box) for box in Patchify(levels=2).find([photo])[0].boxes.tolist()}
        added = {tuple(box) for box in more.regions.boxes[len(plain) :].tolist()}
        assert added
        assert added <= patches
        assert np.allclose(more.vectors[: len(plain)], plain.vectors, atol=1e-5)
        (given,) = filled.describe([photo], regions=[more.regions])
        assert np.allclose(given.vectors, more.vectors, atol=1e-5)


def test_patches_where_nothing_is_detected(one: OnePass) -> None:
    sparse = student(beside=[Patchify()], fill_to=1)
    assert len(sparse.describe([PHOTO])[0]) == len(one.describe([PHOTO])[0]), "there are detections"
    none = student(min_score=1.0, max_regions=50, beside=[Patchify()], fill_to=1)
    assert len(none.describe([PHOTO])[0]) == 30


def test_photos_are_filled_up_by_a_source() -> None:
    with pytest.raises(ValueError, match="fill_to: expected sources that fill up photos in beside, found none"):
        student(fill_to=3)
