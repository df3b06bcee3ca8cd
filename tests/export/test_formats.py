"""Exports in other formats, of one size and in batches, the command, and what is refused before anything is traced."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from objemb.card import read_card
from objemb.export import run as export_run
from objemb.export import writers
from objemb.export.graphs import Traced
from objemb.export.run import ExportSettings, export_model
from objemb.layers.whitening import Whitening
from objemb.models import Model, build_model
from objemb.models.exported import open_exported
from objemb.runtimes.exported import MADE_OF, Exported
from objemb.structures import Photo
from tests.cli.conftest import Run, run  # noqa: F401  a fixture
from tests.export.test_export import onnx
from tests.small_settings import CROPS, FASTER, STUDENT, TAIL
from tests.tiny import random_photo


def test_half_precision_one_size_and_a_batch(tmp_path: Path, run: Run) -> None:  # noqa: F811
    """By the command, of a model with the parts of a trained student: photos of other sizes are resized for --verify,
    and batches are full of different photos."""
    describer = {**copy.deepcopy(STUDENT), "detector": {"name": "faster_rcnn", **FASTER, "pyramid_strides": [8]}}
    describer |= {"head": TAIL, "object_side": 32.0}
    plain = build_model({"describer": describer, "aggregator": {"name": "keep"}, "rerank": []})
    plain = plain.whitened(Whitening.fit(torch.randn(60, 16), 12, fitted_on="noise"))
    plain.save(tmp_path / "model")
    photos = [random_photo(*size, seed=n) for n, size in enumerate(((70, 60), (90, 31), (70, 60)))]
    (tmp_path / "photos").mkdir()
    for number, photo in enumerate(photos):
        Image.fromarray(photo.pixels.transpose(1, 2, 0)).save(tmp_path / "photos" / f"{number}.png")
    command = ["export", str(tmp_path / "model"), "-o", str(tmp_path / "half"), "--precision", "fp16", "--batch", "2"]
    command += ["--size", "60x70", "--max-detections", "2", "--verify", str(tmp_path / "photos")]
    said = run(*command, "--runtime", "onnxruntime", "--json")
    verified = json.loads(said.stdout)["verified"]["onnxruntime"]
    assert verified["photos"] == 3
    assert verified["matched"] > 0
    assert verified["cosine"] >= 0.999
    half = onnx.load(tmp_path / "half" / "photos.onnx")
    assert any(weight.data_type == onnx.TensorProto.FLOAT16 for weight in half.graph.initializer)
    opened = open_exported(tmp_path / "half", runtime="onnxruntime")
    assert (opened.exported.batch, opened.exported.size) == (2, (70, 60))
    together = opened.rows([photos[0], photos[2], photos[0]])
    for photo, rows in zip([photos[0], photos[2], photos[0]], together, strict=True):
        alone = plain.limited(2).describe(photo)
        assert np.abs(rows.regions.boxes - alone.regions.boxes).max() < 0.5
        assert float((rows.vectors * alone.vectors).sum(axis=1).min()) > 0.999
    with pytest.raises(ValueError, match="expected 60 x 70 pixels, for which the model was exported, found 31 x 90"):
        opened.rows([photos[1]])


def test_torch_export(of_torch: Path) -> None:
    assert sorted(p.name for p in of_torch.iterdir()) == ["boxes.pt2", "model.json", "photos.pt2"]
    exported = Exported.of_card(read_card(of_torch), of_torch)
    assert (exported.format, exported.opset) == ("pt2", None)
    assert list(exported.verified) == ["torch"]
    assert exported.verified["torch"]["matched"] > 0
    assert exported.verified["torch"]["failures"] == []


def test_openvino(
    model: Model,
    graphs: dict[str, Traced],
    folder: Path,
    photos: list[Photo],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(export_run, "traced", lambda *_: graphs)
    monkeypatch.setattr(writers, "_write_onnx", lambda _graph, file, *_: shutil.copyfile(folder / file.name, file))
    settings = ExportSettings(format="openvino", max_detections=4)
    found = export_model(model, tmp_path / "openvino", settings, photos=photos[:1])
    assert list(found) == ["openvino"]
    assert found["openvino"].matched > 0
    assert sorted(p.name for p in (tmp_path / "openvino").iterdir()) == [
        *("boxes.bin", "boxes.xml", "model.json", "photos.bin", "photos.xml")
    ]
    made_of = MADE_OF.search((tmp_path / "openvino" / "photos.xml").read_bytes())
    assert made_of is not None
    assert made_of[1].decode() == model.fingerprint


def test_what_cannot_be_exported(model: Model, folder: Path, tmp_path: Path) -> None:
    crops = build_model({"describer": {**CROPS, "regions": {"name": "patchify"}}, "aggregator": {"name": "keep"}})
    with pytest.raises(ValueError, match=r"aggregator: expected one row per photo \(sum\) for a grid of regions"):
        export_model(crops, tmp_path / "crops")
    with pytest.raises(ValueError, match="expected a model on cpu in fp32, found cpu in bf16"):
        export_model(replace(model, precision="bf16"), tmp_path / "half")
    with pytest.raises(FileExistsError, match="expected a new folder, found a model"):
        export_model(model, folder)
    for wrong, message in (
        ({"format": "tflite"}, "format: expected one of"),
        ({"precision": "int4"}, "precision: expected one of"),
        ({"format": "pt2", "precision": "fp16"}, "precision: expected fp32 for the format pt2, found fp16"),
        ({"batch": 0}, "batch: expected an integer of 1 or more"),
        ({"max_detections": -1}, "max_detections: expected an integer of 0 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            ExportSettings(**wrong)
    assert list(tmp_path.iterdir()) == []


def test_the_command(
    model: Model,
    graphs: dict[str, Traced],
    folder: Path,
    tmp_path: Path,
    run: Run,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export_run, "traced", lambda *_: graphs)
    monkeypatch.setattr(writers, "_write_onnx", lambda _graph, file, *_: shutil.copyfile(folder / file.name, file))
    model.save(tmp_path / "model")
    (tmp_path / "photos").mkdir()
    pixels = random_photo(60, 80, seed=1).pixels.transpose(1, 2, 0)
    Image.fromarray(pixels).save(tmp_path / "photos" / "a.png")
    (tmp_path / "photos" / "b.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    command = ("export", str(tmp_path / "model"), "-o", str(tmp_path / "out"), "--max-detections", "4")
    by_one = ("--runtime", "onnxruntime")
    said = run(*command, "--verify", str(tmp_path / "photos"), *by_one, "--json", code=3)
    report = json.loads(said.stdout)
    assert report["fingerprint"] == model.fingerprint
    assert {runtime: verified["photos"] for runtime, verified in report["verified"].items()} == {"onnxruntime": 1}
    assert "skipped" in said.stderr
    assert "expected a new folder, found a model" in run(*command, code=2).stderr
    assert "--size: expected dynamic, or WIDTHxHEIGHT" in run(*command, "--force", "--size", "80", code=2).stderr
    unreadable = run(*command, "--force", "--verify", str(tmp_path / "photos" / "b.png"), *by_one, code=2).stderr
    assert "expected photos, found none of 1 readable" in unreadable
    said = run(*command, "--force", "--verify", str(tmp_path / "photos" / "a.png"), *by_one)
    assert "by onnxruntime on 1 given photos" in said.stdout
    assert "by onnxruntime, " in run("model", "info", str(tmp_path / "out")).stdout
