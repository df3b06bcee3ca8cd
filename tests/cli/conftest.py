from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from typer.testing import CliRunner, Result

from objemb.cli.app import command_line
from objemb.models import build_model, save_model
from tests.models.conftest import RMAC, SETTINGS

#: Three things to find; photo n shows thing n % 3 at a place of its own.
COLOURS = ("red", "green", "blue")
PLACES = ((5, 5, 45, 35), (60, 20, 110, 70), (30, 50, 70, 90))

Run = Callable[..., Result]


@pytest.fixture(scope="session")
def run() -> Run:
    """Runs ``objemb`` with arguments."""

    def call(*arguments: object, code: int = 0) -> Result:
        words = [str(a) for a in arguments]
        result = CliRunner().invoke(command_line(words), words)
        assert result.exit_code == code, f"exit code {result.exit_code}: {result.output}{result.stderr}"
        assert "Traceback" not in result.stderr
        return result

    return call


def draw(file: Path, number: int, seed: int = 0) -> tuple[int, int, int, int]:
    """A photo of 120 x 100 pixels with a thing on noise; returns the thing's box."""
    noise = np.random.default_rng(1000 * seed + number).integers(90, 140, (100, 120, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    box = PLACES[number % len(PLACES)]
    pen = ImageDraw.Draw(image)
    pen.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=COLOURS[number % 3])
    for x in range(box[0], box[2], 4 + 3 * (number % 3)):
        pen.line((x, box[1], x, box[3] - 1), fill="white", width=2)
    image.save(file)
    return box


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six photos and ``boxes.json``, a COCO file with a box on the thing in each."""
    folder = tmp_path / "photos"
    folder.mkdir()
    images, annotations = [], []
    for number in range(6):
        x1, y1, x2, y2 = draw(folder / f"{number}.png", number)
        images.append({"id": number, "file_name": f"{number}.png", "width": 120, "height": 100})
        bbox = [x1, y1, x2 - x1, y2 - y1]
        annotations.append({"id": number, "image_id": number, "category_id": 1 + number % 3, "bbox": bbox})
    categories = [{"id": n, "name": name} for n, name in enumerate(COLOURS, 1)]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "boxes.json").write_text(json.dumps(coco))
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model with a tiny random network, whose boxes are given."""
    folder = tmp_path_factory.mktemp("models") / "crop"
    save_model(build_model(SETTINGS), folder)
    return folder


@pytest.fixture(scope="session")
def rmac(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model with one row per image."""
    folder = tmp_path_factory.mktemp("models") / "rmac"
    save_model(build_model(RMAC), folder)
    return folder


@pytest.fixture(scope="session")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another saved model of the kind of ``model``."""
    folder = tmp_path_factory.mktemp("models") / "newer"
    save_model(build_model({**SETTINGS, "describer": {**SETTINGS["describer"], "pooling": {"name": "max"}}}), folder)
    return folder


@pytest.fixture
def index(run: Run, photos: Path, model: Path, tmp_path: Path) -> Path:
    """An index of the photos with their boxes."""
    run("index", photos, "-o", tmp_path / "index", "--model", model, "--boxes", tmp_path / "boxes.json")
    return tmp_path / "index"


def parsed(result: Result) -> Any:
    """The one JSON document on stdout."""
    return json.loads(result.stdout)
