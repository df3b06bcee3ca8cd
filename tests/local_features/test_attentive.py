from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from objemb.checks import NotFittedError
from objemb.layers.local_attention import LocalAttention
from objemb.local_features.attentive import Attentive
from objemb.weights.read import UnreadableWeightsError
from tests.tiny import TinyBackbone, random_photo

BACKBONE = {"name": "narrow_resnet", "width": 4, "blocks": [1, 1, 1, 1], "weights": "random"}
MINIMAL = {"backbone": BACKBONE, "size": 96, "scales": [1.0, 0.5], "count": 40, "dim": 6, "hidden": 8}


def plain(**settings: object) -> Attentive:
    torch.manual_seed(0)
    given = {"size": 24, "scales": [1.0], "dim": None, "hidden": 3, **settings}
    extractor = Attentive(backbone=TinyBackbone(), **given)  # type: ignore[arg-type]
    torch.nn.init.normal_(extractor.attention.out.weight)
    return extractor


@torch.no_grad()
def weights_by_hand(attention: LocalAttention, cell: torch.Tensor) -> float:
    hidden = (attention.hidden.weight.flatten(1) @ cell + attention.hidden.bias).clamp_min(0)
    return float(torch.log1p(torch.exp(attention.out.weight.flatten() @ hidden + attention.out.bias)))


def test_cells_by_hand() -> None:
    photo = random_photo(16, 24)
    extractor = plain()
    maps = TinyBackbone()(torch.as_tensor(photo.pixels)[None].float() / 255)[0].flatten(1)
    weights = [weights_by_hand(extractor.attention, cell) for cell in maps.T]
    (features,) = extractor.extract([photo])
    order = np.argsort(-np.array(weights), kind="stable")
    np.testing.assert_allclose(features.strengths, np.array(weights)[order], rtol=1e-4)
    np.testing.assert_allclose(features.vectors, F.normalize(maps, dim=0).T.numpy()[order], atol=1e-4)
    few = plain(threshold=float(features.strengths[4])).extract([photo])[0]
    assert len(few) == 5
    assert len(plain(threshold=1e9).extract([photo])[0]) == 0


def test_what_the_attention_learns_from() -> None:
    photos = [random_photo(16, 24), random_photo(24, 16, seed=1)]
    extractor = plain(scales=[2.0, 1.0])
    means = extractor.attended_means(photos)
    for photo, mean in zip(photos, means, strict=True):
        maps = TinyBackbone()(torch.as_tensor(photo.pixels)[None].float() / 255)[0].flatten(1)
        weighted = [weights_by_hand(extractor.attention, cell) * F.normalize(cell, dim=0) for cell in maps.T]
        torch.testing.assert_close(mean, torch.stack(weighted).mean(dim=0))
    means.sum().backward()
    assert extractor.attention.hidden.weight.grad is not None
    assert bool(extractor.attention.out.weight.grad.any())  # type: ignore[union-attr]


def test_a_fresh_attention_is_refused() -> None:
    extractor = Attentive(backbone=TinyBackbone(), size=24, scales=[1.0], dim=4)
    assert extractor.attention(torch.randn(2, 5, 3, 4)).unique().numel() == 1
    with pytest.raises(
        NotFittedError, match="expected a trained one, found an untrained one; `objemb train attend_local`"
    ):
        extractor.samples("projection", [random_photo(16, 24)])


def test_a_trained_attention_comes_from_a_file(tmp_path: Path) -> None:
    trained, file = plain(), tmp_path / "state.pth"
    with torch.no_grad():
        trained.backbone.weight.mul_(2)  # type: ignore[operator]
    torch.save({f"describer.local_features.{k}": v for k, v in trained.state_dict().items()}, file)
    photo = random_photo(16, 24)
    other = Attentive(backbone=TinyBackbone(), size=24, scales=[1.0], dim=None, hidden=3, weights=file)
    np.testing.assert_array_equal(other.extract([photo])[0].strengths, trained.extract([photo])[0].strengths)
    with pytest.raises(UnreadableWeightsError, match="do not fit the network"):
        Attentive(backbone=TinyBackbone(), dim=None, hidden=4, weights=file)


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="threshold: expected a number from 0"):
        plain(threshold=-1.0)
    with pytest.raises(ValueError, match="hidden: expected an integer"):
        plain(hidden=0)
