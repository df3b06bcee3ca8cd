from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import objemb
from objemb.layers.precision import computed, networks_in
from objemb.models import Model, build_model
from tests.models.conftest import RMAC, SETTINGS

BOXES = [(1.0, 2.0, 30.0, 40.0), (10.0, 0.0, 80.0, 60.0)]
ONE_PASS = {
    "describer": {
        "name": "one_pass",
        "detector": {
            "name": "torchvision_rcnn",
            "arch": "fasterrcnn_mobilenet_v3_large_320_fpn",
            "classes": ["thing"],
            "score_threshold": 0.0,
            "min_size": 64,
            "max_size": 96,
            "weights": "random",
        },
        "head": {"name": "embedding", "dim": 8, "weights": "random"},
    }
}


@pytest.fixture(params=[SETTINGS, RMAC, ONE_PASS], ids=["crop", "rmac", "one_pass"])
def any_model(request: pytest.FixtureRequest) -> Model:
    return build_model(request.param)


def least_cosine(model: Model) -> float:
    """Random weights of many layers make more of rounding than trained ones do."""
    return 0.9 if model.settings["describer"]["name"] == "one_pass" else 0.998


@pytest.fixture
def dtypes(monkeypatch: pytest.MonkeyPatch) -> set[torch.dtype]:
    """What convolutions gave."""
    seen: set[torch.dtype] = set()
    forward = torch.nn.Conv2d.forward

    def watched(self: torch.nn.Conv2d, input: torch.Tensor) -> torch.Tensor:
        found = forward(self, input)
        seen.add(found.dtype)
        return found

    monkeypatch.setattr(torch.nn.Conv2d, "forward", watched)
    return seen


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_precision_gives_almost_the_same_vectors(
    any_model: Model, photos: Path, precision: str, dtype: torch.dtype, dtypes: set[torch.dtype]
) -> None:
    half = replace(any_model, precision=precision)
    exact = any_model.query(photos / "0.png", BOXES)
    assert dtypes == {torch.float32}
    found = half.query(photos / "0.png", BOXES)
    assert dtype in dtypes
    assert found.vectors.dtype == np.float32
    assert torch.allclose(torch.as_tensor(found.vectors).norm(dim=1), torch.ones(len(BOXES)), atol=1e-5), (
        "lengths are exact"
    )
    cosines = (torch.as_tensor(found.vectors) * torch.as_tensor(exact.vectors)).sum(dim=1)
    assert (cosines > least_cosine(any_model)).all(), cosines
    assert not torch.as_tensor(found.vectors).equal(torch.as_tensor(exact.vectors))
    assert half.fingerprint == any_model.fingerprint


def test_every_way_to_describe_computes_in_it(model: Model, photos: Path, dtypes: set[torch.dtype]) -> None:
    half = replace(model, precision="bf16")
    for describe in (
        lambda: half.describe(photos / "0.png"),
        lambda: half.query(photos / "0.png"),
        lambda: list(half.stream([photos / "0.png"])),
    ):
        dtypes.clear()
        describe()
        assert dtypes == {torch.bfloat16}
    dtypes.clear()
    model.describe(photos / "0.png")
    assert dtypes == {torch.float32}, "the model it was made from computes as before"


def test_what_it_finds_is_found_by_the_other(model: Model, photos: Path) -> None:
    """An index made in half precision may be asked in single precision."""
    half = [d.vectors for d in replace(model, precision="bf16").stream(photos)]
    for number, photo in enumerate(sorted(photos.iterdir())[: len(half)]):
        asked = model.query(photo).vectors[0]
        assert max(range(len(half)), key=lambda n: float((half[n] @ asked).max())) == number


def test_a_copy_of_a_network_computes_with_its_own_weights() -> None:
    network = build_model(SETTINGS).describer.backbone
    other = copy.deepcopy(network)
    for parameter in other.parameters():
        parameter.data.zero_()
    pixels = torch.rand(1, 3, 64, 64)
    with networks_in(torch.bfloat16):
        assert not other(pixels).equal(network(pixels))


def test_the_block_ends_after_an_error() -> None:
    def fails(x: torch.Tensor) -> torch.Tensor:
        raise ValueError("x")

    with pytest.raises(ValueError, match="x"), networks_in(torch.bfloat16):
        computed(torch.device("cpu"), fails, torch.zeros(1))
    product = computed(torch.device("cpu"), torch.matmul, torch.full((1, 1), 1.01), torch.ones(1, 1))
    assert product.item() == pytest.approx(1.01, abs=1e-7)


def test_moving_and_loading(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "m")
    loaded = objemb.load(tmp_path / "m", device="auto", precision="auto")
    assert loaded.precision == ("fp32" if loaded.device == "cpu" else "bf16")
    moved = loaded.to("cpu", "bf16")
    assert (moved.device, moved.precision) == ("cpu", "bf16")
    assert moved.to("cpu").precision == "bf16"
    with pytest.raises(ValueError, match="found 'tpu'"):
        moved.to("tpu")
    with pytest.raises(ValueError, match="precision: expected one of"):
        objemb.load(tmp_path / "m", precision="fp8")
