from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision import models

from objemb.describers.neural_codes import NeuralCodes
from objemb.layers.whitening import Whitening
from objemb.ops.images import resize
from objemb.ops.tensors import l2
from objemb.regions.rmac_grid import RmacGrid
from objemb.regions.whole_image import WholeImage
from objemb.structures import Regions
from tests.tiny import random_photo

MINIMAL = {
    "regions": {"name": "whole_image"},
    "arch": "mobilenet_v3_small",
    "layer": "classifier.1",
    "size": 64,
}

ARCH, LAYER, SIZE = "mobilenet_v3_small", "classifier.1", 64
PHOTO = random_photo(80, 120, id="a")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "net.pth"
    torch.save(models.get_model(ARCH, weights=None).state_dict(), file)
    return file


def codes(weights: Path | None, layer: str = LAYER, **arguments: object) -> NeuralCodes:
    return NeuralCodes(regions=WholeImage(), arch=ARCH, layer=layer, weights=weights, size=SIZE, **arguments)  # type: ignore[arg-type]


@torch.no_grad()
def test_a_region_is_cut_squeezed_and_classified(weights: Path) -> None:
    net = models.get_model(ARCH, weights=None).eval()
    net.load_state_dict(torch.load(weights, weights_only=True))
    boxes = torch.tensor([[0.0, 0, 120, 80], [20, 10, 90, 70]])
    expected = []
    for x1, y1, x2, y2 in boxes.int().tolist():
        pixels = resize(torch.as_tensor(PHOTO.pixels)[:, y1:y2, x1:x2], (SIZE, SIZE)).float() / 255
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        features = net.avgpool(net.features(((pixels - mean[:, None, None]) / std[:, None, None])[None])).flatten(1)
        expected.append(net.classifier[1](net.classifier[0](features)))
    model = codes(weights)
    (found,) = model.describe([PHOTO], [Regions(boxes, PHOTO.size)])
    assert model.dim == 1024
    assert (torch.as_tensor(found.vectors) - l2(torch.cat(expected))).abs().max() < 1e-5
    (whole,) = model.describe([PHOTO])
    assert (torch.as_tensor(whole.vectors) - torch.as_tensor(found.vectors)[:1]).abs().max() < 1e-5


def test_batches_change_nothing(weights: Path) -> None:
    photos = [PHOTO, random_photo(1, 1, id="pixel"), random_photo(200, 30, seed=1, id="b")]
    one, many = codes(weights, batch=1).describe(photos), codes(weights, batch=8).describe(photos)
    for first, second in zip(one, many, strict=True):
        assert (torch.as_tensor(first.vectors) - torch.as_tensor(second.vectors)).abs().max() < 1e-5


def test_parts_of_the_image_and_a_whitening(weights: Path) -> None:
    model = NeuralCodes(regions=RmacGrid(levels=2), arch=ARCH, layer=LAYER, weights=weights, size=SIZE)
    (found,) = model.describe([PHOTO])
    assert len(found) > 4
    model.whitening = Whitening.fit(torch.as_tensor(found.vectors), 3, fitted_on="itself")
    (whitened,) = model.describe([PHOTO])
    assert (model.dim, whitened.dim) == (3, 3)
    assert torch.allclose(torch.as_tensor(whitened.vectors), model.whitening(torch.as_tensor(found.vectors)), atol=1e-5)


@pytest.mark.parametrize(("layer", "dim"), [("flatten", 576), ("avgpool", 576), ("classifier.3", 1000)])
def test_layers_of_the_head(layer: str, dim: int) -> None:
    assert codes(None, layer).dim == dim


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"layer: .*'classifier.9'.*some are .*'classifier.1'"):
        codes(None, "classifier.9")
    with pytest.raises(ValueError, match=r"layer 'features': expected one vector .*\(1, 576, 2, 2\)"):
        codes(None, "features")
    with pytest.raises(ValueError, match=r"arch: expected one of .*did you mean 'vgg16'"):
        NeuralCodes(regions=WholeImage(), arch="vgg16x", layer="classifier.1")
    with pytest.raises(ValueError, match="size: expected an integer of 1 or more, found 0"):
        NeuralCodes(regions=WholeImage(), arch=ARCH, layer=LAYER, size=0)
    with pytest.raises(ValueError, match="squeezenet1_1, layer 'flatten': expected a size that the network accepts"):
        NeuralCodes(regions=WholeImage(), arch="squeezenet1_1", layer="flatten", size=8)
