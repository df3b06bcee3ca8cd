from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from objemb.aggregators.sum import Sum
from objemb.checks import NotFittedError
from objemb.describers.pooled_regions import PooledRegions
from objemb.describers.regional_attention import RegionalAttention
from objemb.extractors.crop import Crop
from objemb.extractors.map import Map
from objemb.ops.tensors import l2
from objemb.pooling.max import Max
from objemb.regions.rmac_grid import RmacGrid
from objemb.structures import Regions
from tests.tiny import TinyBackbone, random_photo


def minimal(_: Path) -> dict[str, Any]:
    return {"regions": RmacGrid(), "backbone": TinyBackbone(), "extractor": Map(size=64), "hidden": 3}


PHOTOS = [random_photo(96, 64, id="a"), random_photo(64, 64, seed=1, id="b")]


def describer(**changes: object) -> RegionalAttention:
    torch.manual_seed(0)
    parts = {"regions": RmacGrid(levels=2), "backbone": TinyBackbone(), "extractor": Map(size=96), "hidden": 4}
    made = RegionalAttention(**{**parts, **changes})  # type: ignore[arg-type]
    nn.init.normal_(made.attention.out.weight)
    return made


def test_an_image_against_a_slow_reference() -> None:
    net = describer()
    (described,) = net.describe(PHOTOS[:1])
    image = net.extractor.extract(PHOTOS[:1], net.backbone).maps[0]
    cell = net.extractor.extract(PHOTOS[:1], net.backbone).grids[0].cell
    total = torch.zeros(net.dim)
    for number, box in enumerate(described.regions.boxes.tolist()):
        x1, x2 = (round(v / cell[1]) for v in box[::2])
        y1, y2 = (round(v / cell[0]) for v in box[1::2])
        part = image[:, y1:y2, x1:x2].flatten(1)
        context = torch.cat([part.mean(1), image.flatten(1).mean(1)])
        hidden = torch.tanh(net.attention.hidden.weight @ context + net.attention.hidden.bias)
        weight = torch.log1p(torch.exp(net.attention.out.weight @ hidden + net.attention.out.bias))
        assert described.regions.scores[number].item() == pytest.approx(weight.item(), rel=1e-4)
        if number:  # not the whole image
            total += weight * l2(part.amax(1)[None])[0]
    (row,) = [Sum(weighted=True).aggregate(described)]
    assert torch.allclose(torch.as_tensor(row.vectors), l2(total[None]), atol=1e-5)


def test_without_attention_it_is_rmac() -> None:
    net = describer()
    nn.init.zeros_(net.attention.out.weight)
    rmac = PooledRegions(regions=RmacGrid(levels=2), backbone=net.backbone, extractor=Map(size=96), pooling=Max())
    for attended, plain in zip(net.describe(PHOTOS), rmac.describe(PHOTOS), strict=True):
        assert torch.allclose(torch.as_tensor(attended.vectors), torch.as_tensor(plain.vectors))
        weighted, plain_sum = Sum(weighted=True).aggregate(attended).vectors, Sum().aggregate(plain).vectors
        np.testing.assert_allclose(weighted, plain_sum, atol=1e-6)


def test_a_batch_is_described_like_its_photos() -> None:
    net = describer()
    for one, photo in zip(net.describe(PHOTOS), PHOTOS, strict=True):
        (alone,) = net.describe([photo])
        assert torch.allclose(torch.as_tensor(one.vectors), torch.as_tensor(alone.vectors), atol=1e-6)
        assert torch.allclose(torch.as_tensor(one.regions.scores), torch.as_tensor(alone.regions.scores), atol=1e-6)


def test_the_pca_learns_from_maxima_as_they_are() -> None:
    net = describer(dim=2)
    with pytest.raises(NotFittedError, match="add --fit-on PHOTOS"):
        net.describe(PHOTOS)
    maxima = net.samples("projection", PHOTOS)
    first, second = net.attend(PHOTOS).maxima.split(net.attend(PHOTOS).counts)
    assert torch.equal(maxima, torch.cat([first[1:], second[1:]])), "the grid alone is summed up"
    assert net.samples("projection", []).shape == (0, 5)
    net.fitted_parts()["projection"].fit(maxima, fitted_on="two photos")
    (described,) = net.describe(PHOTOS[:1])
    assert described.vectors.shape[1] == net.dim == 2
    wanted = l2(first @ net.projection.weight.T + net.projection.bias)  # type: ignore[union-attr]
    assert torch.allclose(torch.as_tensor(described.vectors), wanted, atol=1e-5)


def test_given_boxes_and_none() -> None:
    net = describer()
    given = [Regions(torch.tensor([[3.0, 4, 50, 60], [7, 7, 7, 7]]), PHOTOS[0].size), Regions.empty(PHOTOS[1].size)]
    first, second = net.describe(PHOTOS, given)
    assert (len(first), len(second)) == (2, 0)
    assert net.describe([]) == []


def test_only_the_attention_gets_a_gradient() -> None:
    net = describer()
    net.attend(PHOTOS).weights.sum().backward()
    with_gradient = {name for name, p in net.named_parameters() if p.grad is not None}
    assert with_gradient == {f"attention.{layer}.{part}" for layer in ("hidden", "out") for part in ("weight", "bias")}


def test_it_needs_a_map() -> None:
    with pytest.raises(TypeError, match="extractor: expected map"):
        describer(extractor=Crop(size=32)).describe(PHOTOS)
