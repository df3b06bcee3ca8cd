"""The program `tools/parity.py`: what is compared, and its errors."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from objemb.export.verify import TOLERANCES, Verification
from objemb.models import Model
from tests.tiny import random_photo
from tools import parity

pytest.importorskip("onnxruntime")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    place = tmp_path / "pictures"
    place.mkdir()
    for seed in range(4):
        Image.fromarray(random_photo(40, 50, seed=seed).pixels.transpose(1, 2, 0)).save(place / f"{seed}.png")
    return place


def test_a_model_in_every_runtime(
    model: Model,
    folder: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The export is that of the other tests, of at most four boxes."""
    monkeypatch.setattr(parity, "export_model", lambda model, place, settings: shutil.copytree(folder, place))
    monkeypatch.setattr(parity, "load_model", lambda place: model)
    monkeypatch.setattr(parity, "TINY", {})
    monkeypatch.setattr(parity, "VARIANTS", {"4 boxes": (4, 0.0)})
    monkeypatch.setattr(parity, "EXPORTS", (("onnx", 1, "4 boxes"),))
    report = tmp_path / "report.json"
    command = ["--small", "--models", "student", "--photos", str(pictures), "-o", str(report)]
    cells = parity.main(command)
    assert {cell.shape for cell in cells} == set(parity.SHAPES) - {parity.IN_BATCHES}
    assert {(cell.model, cell.batch, cell.boxes, cell.measured.photos) for cell in cells} == {
        ("student", 1, "4 boxes", 1)
    }
    assert all(cell.measured.failures == [] and cell.measured.cosine > 0.9999 for cell in cells)
    assert sum(cell.measured.matched for cell in cells) > 4
    written = json.loads(report.read_text())
    assert [cell["measured"]["cosine"] for cell in written] == [cell.measured.cosine for cell in cells]
    title, _, *rows = capsys.readouterr().out.strip().splitlines()
    assert title.startswith("| model | runtime | photos | boxes |")
    matched = sum(cell.measured.matched for cell in cells if cell.runtime == "onnxruntime")
    assert any(row.startswith(f"| student | onnxruntime | 3 | {matched} of {matched} | ") for row in rows)


def test_a_copy_finds_as_many_boxes_as_the_variant_says(model: Model) -> None:
    photo = random_photo(80, 60, seed=2)
    counts = [len(parity.with_boxes(model, *parity.VARIANTS[name]).describe(photo)) - 1 for name in parity.VARIANTS]
    assert counts[:2] == [0, 1]
    assert counts[2] == len(model.describe(photo)) - 1 > 1


def test_shapes_of_the_photos(pictures: Path) -> None:
    photos = parity._photos([pictures], {"strip": (30, 1), "portrait": (9, 5)}, 0)
    assert [photo.pixels.shape for photo in photos["strip"]] == [(3, 30, 1)] * 4
    assert photos["portrait"][3].size == (9, 5)
    assert len({photo.pixels.tobytes() for photo in photos["portrait"]}) == 4
    next(iter(pictures.iterdir())).unlink()
    with pytest.raises(ValueError, match="--photos: expected at least 4 photos, found 3"):
        parity._photos([pictures], {"strip": (30, 1)}, 0)


def test_random_weights_give_scores_that_differ() -> None:
    photo = random_photo(60, 80, seed=1)
    model = parity.settled(parity.TINY["tiny"], {"portrait": [photo]})
    assert not any(layer.training for layer in model.describer.modules())
    norms = [layer for layer in model.describer.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    assert any(norm.running_mean.any() for norm in norms)
    folded = torch.nn.BatchNorm2d(3)
    folded.running_var = torch.full((3,), 0.99)
    parity._settle(folded, (torch.rand(1, 3, 4, 4),))
    assert not folded.get_buffer("running_mean").any(), "of trained weights"
    scores = parity.with_boxes(model, 100, 0.0).describe(photo).regions.scores[1:]
    assert len(set(scores.tolist())) > len(scores) / 2


def test_weights_are_given_by_the_names_of_networks() -> None:
    rows = parity.networks([Path("weights/tf_efficientnet_lite0.safetensors")])
    given = {name for name, settings in rows.items() if "weights/tf_efficientnet_lite0.safetensors" in str(settings)}
    assert given == {f"`faster_rcnn`, EfficientNet-Lite0 of timm, `{head}`" for head in ("embedding", "tail")}
    assert "weights/" not in str(parity.networks())


def test_each_comparison_is_told_at_once(
    model: Model, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the next one is made, with what exceeds a tolerance, and in the report."""
    told: list[tuple[str, int]] = []
    report = tmp_path / "report.json"

    def verified(*_: object, **__: object) -> Verification:
        told.append((capsys.readouterr().err, len(json.loads(report.read_text())) if report.exists() else 0))
        return Verification(TOLERANCES["fp32"], failures=["portrait 0: expected nothing"])

    monkeypatch.setattr(parity, "export_model", lambda model, place, settings: shutil.copytree(folder, place))
    monkeypatch.setattr(parity, "load_model", lambda place: model)
    monkeypatch.setattr(parity, "verify", verified)
    monkeypatch.setattr(parity, "TINY", {})
    parity.main(["--small", "--models", "student", "--exports", "1", "-o", str(report)])
    assert [count for _, count in told] == list(range(len(told)))
    first, second = told[0][0], told[1][0]
    assert first == "student: exporting onnx, 1 at once, 100 boxes\n"
    assert re.match(r"student, \w+, portrait, 1 at once, 100 boxes: 0 boxes, cosine 1\.0+\n", second)
    assert "100 boxes: portrait 0: expected nothing\n" in second
