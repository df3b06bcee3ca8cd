"""A small model with windows, exported once for all tests."""

from __future__ import annotations

import copy
import fcntl
import os
from pathlib import Path

import pytest
import torch

from objemb.card import read_card
from objemb.export import run as export_run
from objemb.export.graphs import Traced, traced
from objemb.export.run import ExportSettings, export_model
from objemb.layers.whitening import Whitening
from objemb.models import Model, build_model
from objemb.runtimes.exported import Exported
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
def exports(model: Model, photos: list[Photo], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the folders ``onnx`` and ``pt2`` of the model, traced once for all processes that run tests."""
    if export_run.torch_version() < export_run.MIN_TORCH:
        pytest.skip("objemb export needs a newer PyTorch")
    base = tmp_path_factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "exports"
    place.mkdir(exist_ok=True)
    with open(place / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "onnx").exists():
            of_model = traced(model.vector_describer("test").program(4), 1, None, True)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(export_run, "traced", lambda *_: copy.deepcopy(of_model))  # writing changes them
                export_model(
                    model, place / "pt2", ExportSettings(format="pt2", max_detections=4), photos=photos[:1], force=True
                )
                export_model(model, place / "onnx", ExportSettings(max_detections=4), photos=photos)
    return place


@pytest.fixture(scope="session")
def folder(exports: Path) -> Path:
    """The model as ONNX graphs."""
    return exports / "onnx"


@pytest.fixture(scope="session")
def of_torch(exports: Path) -> Path:
    """The model as archives of ``torch.export``."""
    return exports / "pt2"


@pytest.fixture(scope="session")
def graphs(folder: Path) -> dict[str, Traced]:
    """What the graphs of ``folder`` take and give; for tests in which nothing is written."""
    exported = Exported.of_card(read_card(folder), folder)
    return {name: Traced(None, graph.inputs, graph.outputs, {}) for name, graph in exported.graphs.items()}
