from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from objemb.models import Model, build_model

#: A few layers only: small, fast, and telling pictures apart even with random weights, which deep networks do not.
BACKBONE = {"name": "torchvision_cnn", "arch": "mobilenet_v3_small", "weights": "random", "layer": "features.3"}
SETTINGS: dict[str, Any] = {
    "describer": {
        "name": "pooled_regions",
        "regions": {"name": "detections"},
        "backbone": BACKBONE,
        "extractor": {"name": "crop", "size": 64},
        "pooling": {"name": "gem"},
    },
    "aggregator": {"name": "keep"},
}
RMAC: dict[str, Any] = {
    "describer": {
        "name": "pooled_regions",
        "regions": {"name": "rmac_grid"},
        "backbone": BACKBONE,
        "extractor": {"name": "map", "size": 128},
        "pooling": {"name": "max"},
    },
    "aggregator": {"name": "sum"},
}


@pytest.fixture(scope="session")
def model() -> Model:
    return build_model(SETTINGS)


@pytest.fixture(scope="session")
def rmac() -> Model:
    return build_model(RMAC)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five photos of coloured noise, 80 x 60 pixels."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(5):
        noise = np.random.default_rng(number).integers(0, 256, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    return folder
