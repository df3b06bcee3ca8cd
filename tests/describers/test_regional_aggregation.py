from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from objemb.checks import NotFittedError
from objemb.config import load_config
from objemb.describers import regional_aggregation as module
from objemb.describers.regional_aggregation import RegionalAggregation
from objemb.extractors.crop import Crop
from objemb.extractors.map import Map
from objemb.layers.whitening import Whitening
from objemb.models import build_model, fit_whitening, load_model
from objemb.structures import Regions
from tests.tiny import TinyBackbone, plain_photo, random_photo

pytest.importorskip("cv2")


def minimal(_: Path) -> dict[str, Any]:
    return {"backbone": TinyBackbone(), "extractor": Map(size=64), "reduced": 3}


PHOTOS = [
    random_photo(60, 80, id="a"),
    random_photo(80, 60, seed=1, id="b"),
    random_photo(1, 2000, seed=2, id="strip"),
    random_photo(1, 1, seed=3, id="pixel"),
    random_photo(30, 40, seed=4, id="scaled", size=(301, 400)),
    plain_photo(60, 80, (90, 90, 90), id="flat"),
]
BOXES = Regions(torch.tensor([[0.0, 0, 80, 60], [10, 12, 50, 44], [7, 7, 7, 7], [79, 59, 80, 60]]), (60, 80))


def describer(*, fit: bool = True, **settings: Any) -> RegionalAggregation:
    parts: dict[str, Any] = {"backbone": net(), "extractor": Map(size=80), "reduced": 3, "min_points": 20}
    made = RegionalAggregation(**(parts | settings))
    if fit:
        for name, part in made.fitted_parts().items():
            part.fit(made.samples(name, [random_photo(64, 64, seed=s) for s in range(5)]), fitted_on="noise")
    return made


def net(channels: int = 6) -> TinyBackbone:
    return TinyBackbone(channels=channels)


def local_by_hand(made: RegionalAggregation) -> tuple[Tensor, Tensor, Tensor]:
    """Saliency ``(h, w)``, weighted features ``(h, w, C)`` and weights of channels ``(C,)`` of photo a."""
    features = made.extractor.extract(PHOTOS[:1], made.backbone).maps[0]
    total = features.sum(dim=0)
    saliency = total / total.square().sum().sqrt()
    active = torch.tensor([(f > 0).float().mean() for f in features])
    eps = 1e-6
    beta = torch.tensor([math.log((len(features) * eps + active.sum()) / (eps + q)) for q in active])
    return saliency, features.permute(1, 2, 0) * beta, beta


def by_hand(made: RegionalAggregation, x1: int, y1: int, x2: int, y2: int) -> Tensor:
    """The vector of a rectangle of cells, one cell after the other."""
    saliency, local, _ = local_by_hand(made)
    places = [(y, x) for y in range(y1, y2) for x in range(x1, x2)]
    if made.reduction is None:
        vector = torch.stack([saliency[p] * local[p] for p in places]).sum(dim=0)
    else:
        reduced = {p: (made.reduction.directions @ local[p]).double() for p in places}
        moments = torch.stack([saliency[p] * torch.outer(reduced[p], reduced[p]) for p in places]).sum(dim=0)
        moments = moments / sum(float(saliency[p]) for p in places)
        moments = moments + 1e-3 * moments.trace() / 3 * torch.eye(3)
        values, vectors = torch.linalg.eigh(moments)
        logarithm = vectors @ torch.diag(values.log()) @ vectors.T
        vector = torch.stack([logarithm[i, j] for i in range(3) for j in range(i, 3)])
    return (vector / vector.norm()).float()


@pytest.mark.parametrize("order", [1, 2])
def test_boxes_against_the_equations(order: int) -> None:
    made = describer(order=order)
    (found,) = made.describe(PHOTOS[:1], [BOXES])
    cells = [(0, 0, 20, 15), (2, 3, 13, 11), (1, 1, 2, 2), (19, 14, 20, 15)]  # cells of 4 pixels
    expected = torch.stack([by_hand(made, *c) for c in cells])
    assert torch.equal(torch.as_tensor(found.regions.boxes), torch.as_tensor(BOXES.boxes))
    assert (torch.as_tensor(found.vectors) - expected).abs().max() < 1e-5


def test_first_order_vectors_of_equation_3() -> None:
    made = describer()
    _, local, _ = local_by_hand(made)
    found = made.samples("reduction", PHOTOS[:1], [BOXES])
    expected = [local.sum((0, 1)), local[3:11, 2:13].sum((0, 1)), local[1, 1], local[14, 19]]
    assert torch.allclose(found, torch.stack([v / v.norm() for v in expected]), atol=1e-5)


def test_the_whole_image_is_seen_as_a_box_of_that_size_is() -> None:
    made = describer()
    (looked,) = made.describe(PHOTOS[:1])
    (given,) = made.describe(PHOTOS[:1], [BOXES[:1]])
    assert torch.allclose(torch.as_tensor(looked.vectors)[:1], torch.as_tensor(given.vectors), atol=1e-6)


@pytest.mark.parametrize("order", [1, 2])
def test_alone_or_in_a_batch(order: int) -> None:
    made = describer(order=order)
    together = made.describe(PHOTOS)
    for photo, found in zip(PHOTOS, together, strict=True):
        (alone,) = made.describe([photo])
        assert found.regions.boxes[0].tolist() == [0, 0, photo.size[1], photo.size[0]]
        assert torch.equal(torch.as_tensor(found.regions.boxes), torch.as_tensor(alone.regions.boxes))
        assert found.vectors.dtype == np.float32
        assert found.vectors.shape == (len(found), 6)
        assert (torch.as_tensor(found.vectors) - torch.as_tensor(alone.vectors)).abs().max() < 1e-5
        lengths = torch.as_tensor(found.vectors).norm(dim=1)
        assert ((lengths - 1).abs() < 1e-5).logical_or(lengths == 0).all()
    assert len(together[0]) == 8
    assert len(together[3]) == 1  # a pixel
    assert "masks" in together[0].regions.extras


def test_a_map_without_activations() -> None:
    for order in (1, 2):
        silent = net()
        made = describer(order=order, backbone=silent)
        silent.get_buffer("weight").zero_()
        assert torch.as_tensor(made.describe(PHOTOS[:1])[0].vectors).abs().max() == 0


def test_given_or_looked_for() -> None:
    made = describer()
    first, second, third = made.describe(PHOTOS[:3], [BOXES, None, Regions.empty(PHOTOS[2].size)])
    assert len(first) == 4
    assert torch.allclose(
        torch.as_tensor(second.vectors), torch.as_tensor(made.describe(PHOTOS[1:2])[0].vectors), atol=1e-6
    )
    assert third.vectors.shape == (0, 6)
    assert made.describe([]) == []
    assert made.samples("reduction", []).shape == (0, 6)


def test_key_points_are_looked_for_in_what_the_network_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    watching = net()
    made = describer(backbone=watching)
    find = type(made.salient).find

    def watched(self: Any, photo: Any, saliency: Tensor, grid: Any, shape: tuple[int, int]) -> Any:
        shapes.append(shape)
        return find(self, photo, saliency, grid, shape)

    monkeypatch.setattr(type(made.salient), "find", watched)
    made.describe([PHOTOS[0], PHOTOS[4], random_photo(37, 61)])
    assert shapes == [(60, 80), (60, 80), (49, 80)]
    assert [tuple(seen.shape[2:]) for seen in watching.seen[-2:]] == [(60, 80), (49, 80)]


def test_has_to_be_fitted() -> None:
    made = describer(fit=False)
    assert list(made.fitted_parts()) == ["reduction"]
    with pytest.raises(NotFittedError, match="expected a fitted part, found an unfitted one"):
        made.describe(PHOTOS[:1])
    assert describer(order=1).fitted_parts() == {}
    with pytest.raises(NotImplementedError, match="expected no part to be fitted on vectors, found 'pooling'"):
        made.samples("pooling", PHOTOS)


def test_whitening() -> None:
    made = describer()
    vectors = torch.cat(
        [torch.as_tensor(d.vectors) for d in made.describe([random_photo(64, 64, seed=s) for s in range(9)])]
    )
    plain = torch.as_tensor(made.describe(PHOTOS[:1])[0].vectors)
    made.whitening = Whitening.fit(vectors, 4, fitted_on="noise")
    assert made.dim == 4
    assert torch.allclose(torch.as_tensor(made.describe(PHOTOS[:1])[0].vectors), made.whitening(plain), atol=1e-5)


def test_dim() -> None:
    assert describer().dim == 6
    assert describer(order=1, backbone=net(5)).dim == 5
    assert describer(fit=False, reduced=6).dim == 21


def test_scaled_queries() -> None:
    watching = net()
    made = describer(backbone=watching)
    part = made.for_part((60, 80), (120, 160))
    assert part is not None
    assert (made.decode_side(), part.decode_side()) == (80, 40)
    part.describe(PHOTOS[:1])
    assert watching.seen[-1].shape[2:] == (30, 40)


def test_never_in_training_mode_and_without_gradients() -> None:
    made = describer().train()
    assert not any(m.training for m in made.modules())


def test_settings_name_the_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    for best in ("hessian", "sift"):
        monkeypatch.setattr(module, "best_detector", lambda best=best: best)
        assert load_config("regional_aggregation")["describer"]["key_points"] == best
        assert describer(order=1).salient.key_points == best
        assert load_config("regional_aggregation", ["key_points=none"])["describer"]["key_points"] == "none"
    assert load_config("regional_aggregation_first_order")["describer"]["order"] == 1


def test_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="order: expected one of 1, 2, found 3"):
        describer(order=3)
    with pytest.raises(ValueError, match=r"reduced: expected at most the channels of the backbone \(6\), found 7"):
        describer(reduced=7)
    with pytest.raises(TypeError, match="extractor: expected map"):
        describer(order=1, extractor=Crop(size=32)).describe(PHOTOS[:1])


def test_as_a_model(tmp_path: Path) -> None:
    for number in range(4):
        pixels = random_photo(60, 80, seed=number).pixels.transpose(1, 2, 0)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    backbone = {"name": "narrow_resnet", "width": 4, "blocks": [1, 1, 1, 1]}
    extractor = {"name": "map", "size": 160}
    settings = {"name": "regional_aggregation", "backbone": backbone, "extractor": extractor, "reduced": 3}
    model = fit_whitening(build_model({"describer": settings}), [tmp_path], dim=2)
    assert model.settings["describer"]["key_points"] != "auto"
    model.save(tmp_path / "model")
    (alike, other) = (m.describe(tmp_path / "0.png") for m in (load_model(tmp_path / "model"), model))
    assert alike.dim == 2
    assert len(alike) > 1
    assert torch.equal(torch.as_tensor(alike.vectors), torch.as_tensor(other.vectors))
