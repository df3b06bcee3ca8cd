from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from objemb.aggregators.sum import Sum
from objemb.backbones.base import Backbone
from objemb.describers.class_weighted import ClassWeighted
from objemb.extractors.crop import Crop
from objemb.extractors.map import Map
from objemb.layers.whitening import Whitening
from objemb.models.pipeline import VectorPipeline
from objemb.ops.images import as_batch
from objemb.ops.tensors import l2
from objemb.structures import NO_LABEL, Photo, Regions
from tests.tiny import TinyBackbone, random_photo

pytest.importorskip("scipy")

MINIMAL = {
    "backbone": {"name": "torchvision_cnn", "arch": "resnet18", "classes": True},
    "extractor": {"name": "map", "size": 64},
    "classes": 3,
}

PHOTOS = [
    random_photo(48, 64, id="a"),
    random_photo(64, 48, seed=1, id="b"),
    random_photo(48, 64, seed=2, id="c"),
    random_photo(1, 1, seed=3, id="pixel"),
]
KNOWN = 7


class TinyClassifier(TinyBackbone):
    """The tiny network with a linear classification layer."""

    def __init__(self) -> None:
        super().__init__(stride=8)
        generator = torch.Generator().manual_seed(1)
        self.classes = nn.Linear(self.channels, KNOWN)
        with torch.no_grad():
            self.classes.weight.copy_(torch.randn(KNOWN, self.channels, generator=generator))
            self.classes.bias.copy_(torch.randn(KNOWN, generator=generator))

    def class_layer(self) -> nn.Linear:
        return self.classes


def describer(backbone: Backbone | None = None, **arguments: object) -> ClassWeighted:
    return ClassWeighted(backbone=backbone or TinyClassifier(), extractor=Map(size=64), **arguments)  # type: ignore[arg-type]


def channel_weights(features: Tensor) -> Tensor:
    active = [float((channel > 0).double().mean()) for channel in features]
    return torch.tensor([math.log(sum(active) / q) if q else 0.0 for q in active], dtype=torch.float64)


def slow(photo: Photo, net: TinyClassifier, count: int) -> tuple[list[int], Tensor, Tensor]:
    """Classes, activation maps and vectors of a photo of the input's size, cell by cell."""
    features = net(as_batch([torch.as_tensor(photo.pixels)], "cpu"))[0].double()
    channels, height, width = features.shape
    weight, bias = net.classes.weight.double(), net.classes.bias.double()
    scores = [float(weight[c] @ features.mean(dim=(1, 2)) + bias[c]) for c in range(KNOWN)]
    chosen = sorted(range(KNOWN), key=lambda c: -scores[c])[:count]
    maps, vectors = [], []
    for c in chosen:
        cam = torch.tensor(
            [
                [sum(float(weight[c, k] * features[k, y, x]) for k in range(channels)) for x in range(width)]
                for y in range(height)
            ],
            dtype=torch.float64,
        )
        cam = (cam / cam.max()).clamp_min(0) if cam.max() > 0 else cam * 0
        maps.append(cam)
        vectors.append(channel_weights(features) * (features * cam).sum(dim=(1, 2)))
    return chosen, torch.stack(maps), l2(torch.stack(vectors))


@torch.no_grad()
def test_against_cell_by_cell() -> None:
    net = TinyClassifier()
    model = describer(net, classes=3)
    for photo, found, maps in zip(PHOTOS[:3], model.describe(PHOTOS[:3]), model.class_maps(PHOTOS[:3]), strict=True):
        chosen, cams, vectors = slow(photo, net, 3)
        assert found.regions.labels.tolist() == [NO_LABEL, *chosen]
        assert maps.classes.tolist() == chosen
        assert torch.allclose(maps.maps.double(), cams, atol=1e-5)
        assert torch.allclose(torch.as_tensor(found.vectors)[1:].double(), vectors, atol=1e-5)
        assert found.regions.scores[1:].tolist() == pytest.approx(maps.scores.tolist())
        assert maps.scores.tolist() == sorted(maps.scores.tolist(), reverse=True)
        assert (maps.grid.height, maps.grid.width) == tuple(cams.shape[1:])
        features = net(as_batch([torch.as_tensor(photo.pixels)], "cpu"))[0].double()
        plain = l2((features.sum(dim=(1, 2)) * channel_weights(features))[None])
        assert torch.allclose(torch.as_tensor(found.vectors)[:1].double(), plain, atol=1e-5), (
            "region 0 is the plain sum"
        )


def test_maps_are_divided_by_their_maximum_and_cut_off_below_zero() -> None:
    class Ramp(TinyClassifier):
        """A map of one row: channel 0 rises from 1 to 4, the others are 1."""

        def forward(self, pixels: Tensor) -> Tensor:
            rising = torch.tensor([1.0, 2, 3, 4]).expand(len(pixels), 1, 1, 4)
            return torch.cat([rising, torch.ones_like(rising).expand(-1, 4, -1, -1)], dim=1)

    net = Ramp()
    with torch.no_grad():
        net.classes.weight.zero_()
        net.classes.weight[0, 0] = 1  # 1 2 3 4
        net.classes.weight[1, :2] = torch.tensor([1.0, -2])  # -1 0 1 2
        net.classes.weight[2, :2] = torch.tensor([-1.0, 1])  # 0 -1 -2 -3
    photo = Photo("a", torch.zeros(3, 8, 32, dtype=torch.uint8), (8, 32))
    model = ClassWeighted(backbone=net, extractor=Map(size=32), fixed_classes=[0, 1, 2])
    (seen,) = model.class_maps([photo])
    assert seen.maps.tolist() == [[[0.25, 0.5, 0.75, 1]], [[0, 0, 0.5, 1]], [[0, 0, 0, 0]]]
    (found,) = model.describe([photo])
    sums = torch.tensor([[30 / 4, *[2.5] * 4], [11 / 2, *[1.5] * 4]])  # all channels are active in all cells
    assert torch.allclose(torch.as_tensor(found.vectors)[1:3], l2(sums), atol=1e-6)
    assert not found.vectors[3].any(), "a class that is seen nowhere"
    assert found.regions.boxes[3].tolist() == [0, 0, 32, 8]


@torch.no_grad()
def test_boxes_weighted_by_classes_against_cell_by_cell() -> None:
    net = TinyClassifier()
    model = describer(net, classes=1)
    boxes = Regions(torch.tensor([[8.0, 16, 40, 32], [0, 0, 64, 48], [60, 40, 60, 40]]), PHOTOS[0].size)
    features = net(as_batch([torch.as_tensor(PHOTOS[0].pixels)], "cpu"))[0].double()
    chosen, cams, _ = slow(PHOTOS[0], net, KNOWN)
    maps = dict(zip(chosen, cams, strict=True))

    def expected(whitening: Whitening | None) -> Tensor:
        rows = []
        for part in ((slice(2, 4), slice(1, 5)), (slice(0, 6), slice(0, 8)), (slice(5, 6), slice(7, 8))):
            cut = features[:, *part]
            by_class = torch.stack([channel_weights(cut) * (cut * maps[c][part]).sum(dim=(1, 2)) for c in (5, 2)])
            unit = l2(by_class) if whitening is None else whitening(l2(by_class).float()).double()
            rows.append(unit.sum(dim=0))
        return l2(torch.stack(rows))

    assert torch.allclose(model.describe_as(PHOTOS[0], boxes, [5, 2]).double(), expected(None), atol=1e-5)
    samples = torch.cat([torch.as_tensor(d.vectors) for d in describer(net, classes=3).describe(PHOTOS)])
    model.whitening = Whitening.fit(samples, 3, fitted_on="itself")
    assert torch.allclose(model.describe_as(PHOTOS[0], boxes, [5, 2]).double(), expected(model.whitening), atol=1e-4)
    assert model.describe_as(PHOTOS[0], boxes[:0], [5]).shape == (0, 3)
    with pytest.raises(ValueError, match="classes: expected numbers below 7, found 7"):
        model.describe_as(PHOTOS[0], boxes, [7])
    with pytest.raises(ValueError, match="classes: expected a list of at least one item"):
        model.describe_as(PHOTOS[0], boxes, [])


@torch.no_grad()
def test_given_boxes_are_the_plain_sum_of_their_cells() -> None:
    net = TinyClassifier()
    boxes = Regions(torch.tensor([[8.0, 16, 40, 32], [60, 40, 60, 40]]), PHOTOS[0].size)
    given, none, looked = describer(net).describe(PHOTOS[:3], [boxes, Regions.empty(PHOTOS[1].size), None])
    features = net(as_batch([torch.as_tensor(PHOTOS[0].pixels)], "cpu"))[0].double()
    cut = features[:, 2:4, 1:5]
    expected = l2((cut.sum(dim=(1, 2)) * channel_weights(cut))[None])
    assert torch.allclose(torch.as_tensor(given.vectors)[:1].double(), expected, atol=1e-5)
    assert torch.equal(torch.as_tensor(given.regions.boxes), torch.as_tensor(boxes.boxes))
    assert none.vectors.shape == (0, 5)
    assert len(looked) == 1 + KNOWN, "no more than there are"


@torch.no_grad()
@pytest.mark.parametrize("crop", ["context", "scaled"])
def test_a_query_is_the_plain_sum_in_its_photo_whatever_the_aggregator(crop: str) -> None:
    """Index rows are sums over classes; the box of a query is neither cut out nor enlarged nor weighted by classes."""
    model = describer(classes=3)
    boxes = Regions(torch.tensor([[8.0, 16, 40, 32], [0, 0, 64, 48]]), PHOTOS[0].size)
    (given,) = model.describe(PHOTOS[:1], [boxes])
    found = VectorPipeline(model, Sum()).query_boxes([PHOTOS[0]], [boxes], crop)[0]
    assert torch.equal(torch.as_tensor(found.vectors), torch.as_tensor(given.vectors))
    assert torch.equal(torch.as_tensor(found.regions.boxes), torch.as_tensor(boxes.boxes))
    features = model.backbone(as_batch([torch.as_tensor(PHOTOS[0].pixels)], "cpu"))[0].double()[:, 2:4, 1:5]
    plain = l2((features.sum(dim=(1, 2)) * channel_weights(features))[None])
    assert torch.allclose(torch.as_tensor(found.vectors)[:1].double(), plain, atol=1e-5)
    alone = VectorPipeline(model, Sum()).query_boxes([PHOTOS[0]], [boxes[:1]], "crop")[0]
    (cut,) = model.describe([PHOTOS[0].part(boxes[:1])])
    assert torch.allclose(torch.as_tensor(alone.vectors), torch.as_tensor(Sum().aggregate(cut).vectors), atol=1e-6)


def test_boxes_are_around_what_is_hot() -> None:
    class Corner(TinyClassifier):
        """Bright cells activate channel 0, which is the one that class 0 looks at."""

        def forward(self, pixels: Tensor) -> Tensor:
            cells = torch.nn.functional.avg_pool2d(pixels, 8)[:, :1]
            return torch.cat([cells, torch.ones_like(cells).expand(-1, 4, -1, -1)], dim=1)

    net = Corner()
    with torch.no_grad():
        net.classes.weight.zero_()[0, 0] = 1
    pixels = torch.zeros(3, 64, 96, dtype=torch.uint8)
    pixels[:, 8:32, 16:40] = 255
    pixels[:, 48:56, 88:96] = 255  # smaller: another component
    photo = Photo("a", pixels, (128, 192))
    model = ClassWeighted(backbone=net, extractor=Map(size=96), fixed_classes=[0, 3], threshold=0.5)
    (found,) = model.describe([photo])
    assert found.regions.labels.tolist() == [NO_LABEL, 0, 3]
    box = torch.as_tensor(found.regions.boxes[1])
    assert (box - torch.tensor([32.0, 16, 80, 64])).abs().max() <= 8
    assert found.regions.boxes[2].tolist() == [0, 0, 192, 128], "a map that is the same everywhere"


def test_classes_that_are_asked_for() -> None:
    model = describer(fixed_classes=[4, 2])
    for found in model.describe(PHOTOS):
        assert found.regions.labels.tolist() == [NO_LABEL, 4, 2]
    one, two = model.class_maps(PHOTOS[:2], [[1], [6, 0]])
    assert (one.classes.tolist(), two.classes.tolist()) == ([1], [6, 0])
    assert two.maps.shape[0] == 2
    assert model.class_maps([]) == []


def test_summed_up_and_whitened() -> None:
    model = describer(classes=3)
    (found,) = model.describe(PHOTOS[:1])
    summed = Sum().aggregate(found)
    assert torch.allclose(
        torch.as_tensor(summed.vectors), l2(torch.as_tensor(found.vectors)[1:].sum(dim=0, keepdim=True)), atol=1e-5
    )
    vectors = torch.cat([torch.as_tensor(d.vectors) for d in model.describe(PHOTOS)])
    model.whitening = Whitening.fit(vectors, 2, fitted_on="itself")
    assert torch.allclose(
        torch.as_tensor(model.describe(PHOTOS[:1])[0].vectors),
        model.whitening(torch.as_tensor(found.vectors)),
        atol=1e-5,
    )
    assert model.dim == 2


def test_a_part_enters_at_the_scale_of_its_photo() -> None:
    model = describer(classes=1)
    part = model.for_part(PHOTOS[0].size, (96, 128))
    assert part is not None
    assert (model.decode_side(), part.decode_side()) == (64, 32)
    assert part.class_maps(PHOTOS[:1])[0].maps.shape == (1, 3, 4)


def test_mistakes_are_named() -> None:
    with pytest.raises(TypeError, match=r"backbone: expected one with a classification layer .* found TinyBackbone"):
        describer(TinyBackbone())
    with pytest.raises(ValueError, match="fixed_classes: expected numbers below 7, found 7"):
        describer(fixed_classes=[0, 7])
    with pytest.raises(ValueError, match="fixed_classes: expected a list of at least one item"):
        describer(fixed_classes=[])
    with pytest.raises(ValueError, match="threshold: expected a number from 0 to 1, found 2"):
        describer(threshold=2)
    with pytest.raises(ValueError, match=r"classes: expected a list per photo \(2\), found 1"):
        describer().class_maps(PHOTOS[:2], [[1]])
    with pytest.raises(ValueError, match="classes: expected numbers below 7, found 9"):
        describer().class_maps(PHOTOS[:1], [[9]])
    crops = ClassWeighted(backbone=TinyClassifier(), extractor=Crop(size=32))
    with pytest.raises(TypeError, match="extractor: expected map"):
        crops.describe(PHOTOS[:1])
