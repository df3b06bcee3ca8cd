"""What an exported model says and gives for input that is not a usual photo: the same as its model in PyTorch."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from objemb.card import CARD, read_card
from objemb.checks import ArtefactMismatchError
from objemb.export.run import MIN_TORCH, torch_version
from objemb.images.decode import UnreadableImageError
from objemb.models import Model
from objemb.models.base import EmbeddingModel
from objemb.models.exported import ExportedModel, open_exported
from tests.tiny import random_photo

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package)
if torch_version() < MIN_TORCH:
    pytest.skip("objemb export needs a newer PyTorch", allow_module_level=True)


@pytest.fixture(scope="module")
def exported(folder: Path) -> ExportedModel:
    return open_exported(folder, runtime="onnxruntime")


def noise(*shape: int) -> np.ndarray[Any, np.dtype[Any]]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def file_of(pixels: np.ndarray[Any, np.dtype[Any]]) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "png")
    return content.getvalue()


def outcome(ask: Callable[[], Any]) -> tuple[str, Any]:
    try:
        return "rows", ask()
    except (ValueError, TypeError, OSError, UnreadableImageError) as error:
        return f"{type(error).__name__}: {error}", None


def expect_the_same(model: EmbeddingModel, exported: EmbeddingModel, ask: Callable[[EmbeddingModel], Any]) -> str:
    (expected, rows), (found, of_graph) = outcome(lambda: ask(model)), outcome(lambda: ask(exported))
    assert found == expected
    if rows is not None:
        assert len(of_graph.vectors) == len(rows.vectors)
        assert np.allclose(of_graph.regions.boxes, rows.regions.boxes, atol=2e-2)
        cosines = (np.asarray(of_graph.vectors) * np.asarray(rows.vectors)).sum(axis=1)
        assert cosines.min(initial=1.0) > 0.9995
    return expected


IMAGES = {
    "alpha": (noise(40, 50, 4), "rows"),
    "alpha in a file": (file_of(noise(40, 50, 4)), "rows"),
    "grey": (noise(40, 50), "rows"),
    "grey of 16 bits in a file": (file_of(noise(40, 50).astype(np.uint16) * 257), "rows"),
    "colours of 16 bits": (noise(40, 50, 3).astype(np.uint16) * 257, "rows"),
    "one pixel": (noise(1, 1, 3), "rows"),
    "one row of 30,000 pixels": (noise(1, 30_000, 3), "rows"),
    "floats to 255": (np.full((9, 9, 3), 7.5), "rows"),
    "not a number": (np.full((9, 9, 3), np.nan), "ValueError"),
    "no pixels": (noise(0, 9, 3), "ValueError"),
    "five channels": (noise(9, 9, 5), "ValueError"),
    "half a file": (file_of(noise(40, 50, 3))[:300], "UnreadableImageError"),
    "not an image": (b"GIF89a of nothing", "UnreadableImageError"),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_photos(model: Model, exported: ExportedModel, kind: str) -> None:
    image, expected = IMAGES[kind]
    found = expect_the_same(model.limited(4), exported, lambda one: one.describe(image))
    assert found.startswith(expected)


BOXES = {
    "none": (np.zeros((0, 4), np.float32), "rows"),
    "not a number": ([[1, 2, np.nan, 9]], "ValueError"),
    "infinite": ([[1, 2, np.inf, 9]], "ValueError"),
    "outside": ([[900, 900, 950, 950]], "ValueError"),
    "beyond the edge": ([[60, 30, 120, 90]], None),
    "empty": ([[5, 5, 5, 9]], "rows"),
    "the wrong way round": ([[9, 9, 5, 5]], "ValueError"),
    "less than a pixel": ([[5, 5, 5.25, 5.25]], None),
    "three numbers": ([[1, 2, 3]], "ValueError"),
    "words": ("all", "ValueError"),
}


@pytest.mark.parametrize("crop", ["context", "crop"])
@pytest.mark.parametrize("kind", BOXES)
def test_boxes(model: Model, exported: ExportedModel, kind: str, crop: str) -> None:
    boxes, expected = BOXES[kind]
    photo = random_photo(60, 80, seed=2)
    found = expect_the_same(model.limited(4), exported, lambda one: one.query(photo, boxes, crop=crop))
    assert expected is None or found.startswith(expected)


@pytest.mark.parametrize("taken", ["boxes.onnx", "photos.onnx"])
def test_the_graph_of_something_else_is_refused_before_it_is_opened(folder: Path, tmp_path: Path, taken: str) -> None:
    place = tmp_path / "model"
    shutil.copytree(folder, place)
    other = folder / ("photos.onnx" if taken == "boxes.onnx" else "boxes.onnx")
    shutil.copyfile(other, place / taken)
    with pytest.raises(ArtefactMismatchError, match=f"{taken}: expected sha256"):
        open_exported(place, runtime="onnxruntime")


def test_graphs_beside_the_card_of_another_model(folder: Path, tmp_path: Path) -> None:
    """Whose checksums are right: the graphs themselves say which model they were made of."""
    place = tmp_path / "model"
    shutil.copytree(folder, place)
    card = {**read_card(folder), "fingerprint": "c" * 64}
    (place / CARD).write_text(json.dumps(card))
    with pytest.raises(ArtefactMismatchError, match=f"expected a graph of the model with fingerprint '{'c' * 64}'"):
        open_exported(place, runtime="onnxruntime")
