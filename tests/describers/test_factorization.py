from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from objemb.aggregators.sum import Sum
from objemb.describers.factorization import Factorization
from objemb.extractors.crop import Crop
from objemb.extractors.map import Map
from objemb.layers.whitening import Whitening
from objemb.ops.images import as_batch
from objemb.ops.nmf import INITS, Nmf
from objemb.ops.tensors import l2
from objemb.structures import Photo, Regions
from tests.tiny import Colours, TinyBackbone, plain_photo, random_photo


def minimal(_: Path) -> dict[str, Any]:
    return {"backbone": TinyBackbone(), "extractor": Map(size=64), "rank": 3}


PHOTOS = [random_photo(60, 80, id="a"), random_photo(80, 60, seed=1, id="b"), random_photo(33, 80, seed=2, id="c")]


def describer(**arguments: Any) -> Factorization:
    parts = {"backbone": TinyBackbone(stride=4, channels=6), "extractor": Map(size=80), "rank": 3}
    return Factorization(**(parts | arguments))


def halves() -> Photo:
    """Red on the left, blue on the right."""
    pixels = torch.zeros(3, 40, 80, dtype=torch.uint8)
    pixels[0, :, :40], pixels[2, :, 40:] = 255, 255
    return Photo("halves", pixels, (40, 80))


@pytest.mark.parametrize("init", INITS)
def test_a_case_by_hand(init: str) -> None:
    model = describer(backbone=Colours(), rank=2, init=init, scores="mass", tolerance=0.0)
    (found,) = model.describe([halves()])
    whole, first, second = found.regions.boxes.tolist()
    assert whole == [0, 0, 80, 40]
    assert sorted([first, second]) == [[0, 0, pytest.approx(40, abs=1), 40], [pytest.approx(40, abs=1), 0, 80, 40]]
    assert found.regions.scores.tolist() == pytest.approx([1, 0.5, 0.5], abs=1e-3)
    red, blue = torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 0, 1])
    for box, vector in zip((first, second), torch.as_tensor(found.vectors)[1:], strict=True):
        assert torch.allclose(vector, red if box[0] == 0 else blue, atol=1e-2)


def test_against_the_definition() -> None:
    """The map by hand, factorised, each concept to unit length, whitened, to unit length, and summed."""
    model = describer()
    parts = torch.cat(
        [torch.as_tensor(d.vectors)[1:] for d in model.describe([random_photo(60, 80, seed=s) for s in range(9)])]
    )
    model.whitening = Whitening.fit(parts, 4, fitted_on="concepts of noise")
    assert model.dim == 4
    (found,) = model.describe(PHOTOS[:1])
    features = model.backbone(as_batch([torch.as_tensor(PHOTOS[0].pixels)], "cpu"))[0]
    (factors,) = Nmf(3).fit([features.flatten(1).T])
    total = torch.zeros(4)
    for row in factors.basis:
        vector = model.whitening.projection @ (row / row.norm() - model.whitening.mean)
        total += vector / vector.norm()
    assert (torch.as_tensor(Sum().aggregate(found).vectors)[0] - total / total.norm()).abs().max() < 1e-5


def test_a_given_box_is_one_concept_of_its_cells() -> None:
    model = describer(init="nndsvd")
    boxes = Regions(torch.tensor([[8.0, 4, 40, 28], [0, 0, 80, 60], [5, 5, 5, 5]]), (60, 80), torch.tensor([0.5, 1, 2]))
    (found,) = model.describe(PHOTOS[:1], [boxes])
    assert torch.equal(torch.as_tensor(found.regions.boxes), torch.as_tensor(boxes.boxes))
    assert torch.equal(torch.as_tensor(found.regions.scores), torch.as_tensor(boxes.scores))
    features = model.backbone(as_batch([torch.as_tensor(PHOTOS[0].pixels)], "cpu"))[0]
    for vector, (x1, y1, x2, y2) in zip(
        torch.as_tensor(found.vectors), [(2, 1, 10, 7), (0, 0, 20, 15), (1, 1, 2, 2)], strict=True
    ):
        cells = features[:, y1:y2, x1:x2].flatten(1).T
        direction = torch.linalg.svd(cells, full_matrices=False)[2][0].abs()
        assert torch.allclose(vector, direction, atol=1e-4), "the best factor of rank 1"
    (looked,) = model.describe(PHOTOS[:1])
    assert torch.allclose(torch.as_tensor(looked.vectors)[0], torch.as_tensor(found.vectors)[1], atol=1e-5), (
        "the whole image is such a box"
    )


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("scales", [[1.0], [1.0, 0.5]])
def test_alone_or_in_a_batch(init: str, scales: list[float]) -> None:
    model = describer(init=init, scales=scales)
    given = [None, Regions.empty(PHOTOS[1].size), Regions(torch.tensor([[3.0, 3, 9, 30]]), PHOTOS[2].size)]
    together = model.describe(PHOTOS, given)
    assert [len(d) for d in together] == [4, 0, 1]
    for photo, boxes, found in zip(PHOTOS, given, together, strict=True):
        (alone,) = model.describe([photo], [boxes])
        assert torch.allclose(torch.as_tensor(alone.vectors), torch.as_tensor(found.vectors), atol=1e-5)
        assert torch.allclose(torch.as_tensor(alone.regions.boxes), torch.as_tensor(found.regions.boxes), atol=1e-4)
    assert model.describe([]) == []


def test_scales_are_factorised_together() -> None:
    model = describer(scales=[1.0, 0.5])
    assert model.decode_side() == 80
    (found,) = model.describe(PHOTOS[:1])
    maps = [Map(size=size).extract(PHOTOS[:1], model.backbone).maps[0].flatten(1).T for size in (80, 40)]
    (factors,) = Nmf(3).fit([torch.cat(maps)])
    similar = l2(factors.basis) @ found.vectors[1:].T
    assert torch.allclose(similar.amax(dim=0), torch.ones(3), atol=1e-5)


def test_little_or_nothing_to_see() -> None:
    (black,) = describer(backbone=Colours()).describe([plain_photo(40, 60, (0, 0, 0))])
    assert len(black) == 1
    assert torch.as_tensor(black.vectors).abs().max() == 0
    (cell,) = describer(extractor=Map(size=4)).describe([random_photo(4, 4)])
    assert len(cell) == 2, "a single cell has one concept at most"


def test_parameters_of_the_factorisation_arrive() -> None:
    model = describer(init="nndsvda", iterations=7, tolerance=0.5, seed=3)
    assert model.nmf == Nmf(3, "nndsvda", 7, 0.5, 3)
    assert describer(extractor=Map(size=80, side="shortest")).decode_side() is None


def test_never_in_training_mode_and_without_gradients() -> None:
    model = describer().train()
    assert not any(m.training for m in model.modules())


def test_refuses_nonsense() -> None:
    with pytest.raises(TypeError, match="extractor: expected map, which computes one feature map per photo"):
        describer(extractor=Crop(size=32)).describe(PHOTOS[:1])
    with pytest.raises(ValueError, match="scores: expected one of 'one', 'mass', found 'masses'"):
        describer(scores="masses")
    with pytest.raises(ValueError, match="rank: expected an integer of 1 or more, found 0"):
        describer(rank=0)
    with pytest.raises(ValueError, match="scales: expected a list of at least one item"):
        describer(scales=[])
