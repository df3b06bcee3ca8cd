"""A small model with windows, exported once for all tests."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from objemb.export import run as export_run
from objemb.export.graphs import Traced, traced
from objemb.export.run import ExportSettings, export_model
from objemb.layers.whitening import Whitening
from objemb.models import Model, build_model
from objemb.structures import Photo
from tests.small_settings import STUDENT, TAIL
from tests.tiny import random_photo


@pytest.fixture(scope="session")
def model() -> Model:
    describer = {**copy.deepcopy(STUDENT), "head": TAIL, "object_side": 32.0, "nms_iou": 1.0}
    built = build_model({"describer": describer, "aggregator": {"name": "keep"}, "rerank": []})
    generator = torch.Generator().manual_seed(0)
    return built.whitened(Whitening.fit(torch.randn(60, 16, generator=generator), 12, fitted_on="noise"))


@pytest.fixture(scope="session")
def photos() -> list[Photo]:
    sizes = ((60, 80), (90, 31), (48, 96), (130, 70))
    return [random_photo(*size, seed=n, id=f"photo {n}") for n, size in enumerate(sizes)]


@pytest.fixture(scope="session")
def graphs(model: Model) -> dict[str, Traced]:
    if export_run.torch_version() < export_run.MIN_TORCH:
        pytest.skip("objemb export needs a newer PyTorch")
    return traced(model.vector_describer("test").program(4), 1, None, True)


@pytest.fixture(scope="session")
def folder(
    graphs: dict[str, Traced], model: Model, photos: list[Photo], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    place = tmp_path_factory.mktemp("exported") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_run, "traced", lambda *_: graphs)  # traced once
        found = export_model(model, place, ExportSettings(max_detections=4), photos=photos)
    assert "onnxruntime" in found
    for verification in found.values():
        assert verification.failures == []
        assert verification.photos == 4
        assert verification.matched > 4
    return place
