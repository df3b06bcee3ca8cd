from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import project_masks_on_boxes

from objemb.backbones.narrow_resnet import NarrowResnet
from objemb.detectors._rcnn import Rcnn
from objemb.detectors._truth import masks_in
from objemb.detectors.faster_rcnn import FasterRcnn
from objemb.detectors.torchvision_rcnn import TorchvisionRcnn
from objemb.structures import Photo, Regions
from tests.tiny import random_photo

SMALL = {"min_size": 64, "max_size": 96, "score_threshold": 0.0, "max_detections": 6}
TERMS = {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
PHOTOS = [random_photo(64, 96), random_photo(128, 192, seed=1)]
TRUTH = [
    Regions(torch.tensor([[4.0, 4, 40, 44], [50, 10, 90, 60]]), PHOTOS[0].size, labels=torch.tensor([0, 1])),
    Regions(torch.tensor([[20.0, 20, 100, 120]]), PHOTOS[1].size, labels=torch.tensor([1])),
]


def tiny(**arguments) -> FasterRcnn:
    torch.manual_seed(0)
    trunk = NarrowResnet(width=4, blocks=[1, 1, 1, 1])
    settings = {"pyramid_strides": [8, 16], "channels": 8, "box_width": 16, "num_classes": 2, **SMALL}
    return FasterRcnn(trunk, **{**settings, **arguments})


@pytest.fixture(scope="module")
def detector() -> FasterRcnn:
    return tiny()


@pytest.fixture(scope="module")
def masked() -> TorchvisionRcnn:
    torch.manual_seed(0)
    return TorchvisionRcnn("maskrcnn_resnet50_fpn", num_classes=2, **SMALL)


def losses(detector: Rcnn, photos: list[Photo], targets: list[Regions], seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    batch = detector.preprocess(photos)
    return detector.losses(batch, detector.features(batch), targets, photos)


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def test_terms_equal_those_of_torchvision(detector: FasterRcnn) -> None:
    """Of photos that torchvision neither resizes nor pads. Its frozen norms stay in eval mode."""
    photos = [random_photo(64, 96), random_photo(64, 96, seed=1)]
    targets = [TRUTH[0], Regions(TRUTH[0].boxes[:1], (64, 96), labels=torch.tensor([1]))]
    found = losses(detector, photos, targets)
    network = detector.network
    for module in (network, network.rpn, network.roi_heads, network.transform):
        module.training = True
    try:
        torch.manual_seed(0)
        images = [torch.as_tensor(p.pixels).float() / 255 for p in photos]
        expected = network(
            images,
            [{"boxes": torch.as_tensor(t.boxes).clone(), "labels": torch.as_tensor(t.labels) + 1} for t in targets],
        )
    finally:
        detector.eval()
    assert found.keys() == expected.keys() == TERMS
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_the_seed_decides_everything(detector: FasterRcnn) -> None:
    first, second = losses(detector, PHOTOS, TRUTH), losses(detector, PHOTOS, TRUTH)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_heads_keep_full_precision(detector: FasterRcnn) -> None:
    batch = detector.preprocess(PHOTOS)
    with torch.autocast("cpu", torch.bfloat16):
        features = detector.features(batch)
        assert features["0"].dtype == torch.bfloat16
        torch.manual_seed(0)
        mixed = detector.losses(batch, features, TRUTH, PHOTOS)
        boxes = torch.as_tensor(detector.regions(batch, features, PHOTOS)[0].boxes)
    full = {name: level.float() for name, level in features.items()}
    torch.manual_seed(0)
    expected = detector.losses(batch, full, TRUTH, PHOTOS)
    assert all(torch.equal(mixed[name], expected[name]) for name in expected)
    assert torch.equal(boxes, torch.as_tensor(detector.regions(batch, full, PHOTOS)[0].boxes))


def test_learning_lowers_the_loss_and_leaves_no_flag_behind() -> None:
    detector = tiny()
    before = [found.boxes for found in detector.detect(PHOTOS)]
    optimizer = torch.optim.Adam(detector.parameters(), 3e-3)
    history = []
    for step in range(12):
        loss = total(losses(detector, PHOTOS, TRUTH, seed=step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
    assert sum(history[-3:]) < 0.8 * sum(history[:3])
    assert not any(m.training for m in detector.modules())
    after = detector.detect(PHOTOS)
    assert [b.tolist() for b in before] != [f.boxes.tolist() for f in after]
    for photo, found in zip(PHOTOS, after, strict=True):
        torch.testing.assert_close(
            torch.as_tensor(detector.detect([photo])[0].boxes), torch.as_tensor(found.boxes), rtol=1e-4, atol=1e-3
        )


def test_no_flag_is_left_behind_by_an_error(detector: FasterRcnn) -> None:
    with pytest.raises(ValueError, match="targets: expected labels from 0 to 1, found 7"):
        losses(detector, PHOTOS[:1], [Regions(TRUTH[0].boxes, (64, 96), labels=torch.tensor([0, 7]))])
    with pytest.raises(ValueError, match="targets: expected labels from 0 to 1, found -1"):
        losses(detector, PHOTOS[:1], [Regions(TRUTH[0].boxes, (64, 96))])
    assert not any(m.training for m in detector.modules())


def test_one_class_takes_all_boxes_whatever_their_labels() -> None:
    agnostic = tiny(num_classes=1)
    unlabelled = [Regions(t.boxes, t.size) for t in TRUTH]
    first, second = losses(agnostic, PHOTOS, TRUTH), losses(agnostic, PHOTOS, unlabelled)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_photos_without_boxes_teach_background(detector: FasterRcnn, masked: TorchvisionRcnn) -> None:
    empty = [Regions.empty(p.size) for p in PHOTOS]
    nothing = Regions(torch.zeros(0, 4), PHOTOS[0].size, extras={"masks": torch.zeros(0, 28, 28, dtype=torch.uint8)})
    for network, photos, targets in (
        (detector, PHOTOS, empty),
        (detector, PHOTOS, [TRUTH[0], empty[1]]),
        (masked, PHOTOS[:1], [nothing]),
    ):
        terms = losses(network, photos, targets)
        loss = total(terms)
        assert torch.isfinite(loss)
        network.zero_grad()
        loss.backward()
        gradients = [p.grad for p in network.network.backbone.parameters() if p.grad is not None]
        assert gradients
        assert all(bool(g.isfinite().all()) for g in gradients)
        network.zero_grad()


def test_degenerate_boxes_are_left_out(detector: FasterRcnn) -> None:
    slivers = torch.tensor([[5.0, 5, 5, 5], [7, 7, 7, 30], [7, 7, 30, 7.5]])
    boxes, labels = torch.cat([torch.as_tensor(TRUTH[0].boxes), slivers]), torch.tensor([0, 1, 0, 0, 0])
    with_slivers = [Regions(boxes, (64, 96), labels=labels)]
    first, second = losses(detector, PHOTOS[:1], TRUTH[:1]), losses(detector, PHOTOS[:1], with_slivers)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_photo_with_500_boxes_and_one_of_a_pixel(detector: FasterRcnn) -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(500, 2, 2, generator=generator).sort(dim=1).values * torch.tensor([96.0, 64.0])
    many = Regions(corners.flatten(1), (64, 96), labels=torch.zeros(500, dtype=torch.int64))
    assert torch.isfinite(total(losses(detector, PHOTOS[:1], [many])))
    pixel = random_photo(1, 1)
    assert torch.isfinite(total(losses(detector, [pixel], [Regions.whole(pixel.size)[:0]])))


def test_masks_are_learned_where_they_are_known(masked: TorchvisionRcnn) -> None:
    assert losses(masked, PHOTOS, TRUTH).keys() == TERMS
    masks = torch.zeros(2, 28, 28, dtype=torch.uint8)
    masks[:, :14] = 1
    known = Regions(TRUTH[0].boxes, TRUTH[0].size, labels=TRUTH[0].labels, extras={"masks": masks})
    terms = losses(masked, PHOTOS, [known, TRUTH[1]])
    assert terms.keys() == TERMS | {"loss_mask"}
    assert float(terms["loss_mask"].detach()) > 0
    terms["loss_mask"].backward()
    head = next(masked.network.roi_heads.mask_head.parameters())
    assert head.grad is not None
    masked.zero_grad()


def test_masks_within_boxes() -> None:
    """An object of which the left half is set: the box of it, its left half, and one twice as wide to the right."""
    mask = torch.zeros(1, 4, 4)
    mask[:, :, :2] = 1
    objects = torch.tensor([[10.0, 10, 50, 30]]).repeat(3, 1)
    boxes = torch.tensor([[10.0, 10, 50, 30], [10, 10, 30, 30], [10, 10, 90, 30]])
    seen = masks_in(boxes, objects, mask.repeat(3, 1, 1), 4)
    assert seen[0].mean(dim=0).round().tolist() == [1, 1, 0, 0]
    assert seen[1].mean(dim=0).round().tolist() == [1, 1, 1, 1]
    assert seen[2].mean(dim=0).round().tolist() == [1, 0, 0, 0]


def test_masks_within_boxes_agree_with_masks_of_whole_images() -> None:
    """Torchvision cuts targets out of masks of the size of the image."""
    whole = torch.zeros(1, 64, 64)
    whole[0, 16:32, 8:40] = 1
    whole[0, 16:24, 8:24] = 0
    within = whole[:, 16:32, 8:40]
    objects, boxes = torch.tensor([[8.0, 16, 40, 32]]), torch.tensor([[4.0, 12, 44, 40]])
    expected = project_masks_on_boxes(whole, boxes, torch.tensor([0]), 28)
    found = masks_in(boxes, objects, within, 28)
    assert float((found - expected).abs().mean()) < 0.06


def test_parameters_of_all_parts_learn(detector: FasterRcnn) -> None:
    total(losses(detector, PHOTOS, TRUTH)).backward()
    dead = [
        name
        for name, p in detector.named_parameters()
        if p.grad is None and not isinstance(detector.get_submodule(name.rpartition(".")[0]), nn.BatchNorm2d)
    ]
    detector.zero_grad()
    assert not dead


def test_losses_of_proposals_alone(detector: Rcnn) -> None:
    batch = detector.preprocess(PHOTOS)
    features = detector.features(batch)
    torch.manual_seed(0)
    everything = detector.losses(batch, features, TRUTH, PHOTOS)
    torch.manual_seed(0)
    alone = detector.proposal_losses(batch, features, TRUTH)
    assert alone.keys() == {"loss_objectness", "loss_rpn_box_reg"}
    for name, value in alone.items():
        torch.testing.assert_close(value, everything[name])
    foreign = [Regions(t.boxes, t.size, labels=torch.full((len(t),), 99)) for t in TRUTH]
    torch.manual_seed(0)
    torch.testing.assert_close(detector.proposal_losses(batch, features, foreign), alone)
