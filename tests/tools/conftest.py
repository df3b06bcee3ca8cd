"""The program `objemb evaluate`, and what it measures on."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

from tests.evaluation.colours import write_set

OVERRIDES = ["backbone.arch=squeezenet1_1", "backbone.weights=random", "extractor.size=64"]
SMALL = [*OVERRIDES, "--cost-photos", "0"]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return importlib.import_module("objemb.cli.programs.evaluate")


@pytest.fixture
def set_file(tmp_path: Path) -> Path:
    return write_set(tmp_path)


@pytest.fixture
def coco_file(tmp_path: Path) -> Path:
    """Both patches of every photo."""
    images = [{"id": n, "file_name": f"{c}.png", "width": 40, "height": 20} for n, c in enumerate("abc")]
    annotations = [
        {"id": 2 * n + i, "image_id": n, "category_id": 1, "bbox": [20 * i, 0, 20, 20], "area": 400, "iscrowd": 0}
        for n in range(3)
        for i in range(2)
    ]
    boxes = tmp_path / "boxes.json"
    coco = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "patch"}]}
    boxes.write_text(json.dumps(coco))
    return boxes
