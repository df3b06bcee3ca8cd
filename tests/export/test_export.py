"""A small model with windows, exported once and run by ONNX Runtime."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from objemb import registry
from objemb.card import read_card
from objemb.checks import ArtefactMismatchError
from objemb.cli.export import FORMAT_NAMES, PRECISION_NAMES
from objemb.export import run as export_run
from objemb.export import scenes
from objemb.export.graphs import Traced
from objemb.export.quantize import EXACT, quantized
from objemb.export.run import ExportSettings, VerificationError, export_model
from objemb.export.verify import TOLERANCES, _least_score, verify
from objemb.images.decode import read_photo
from objemb.layers.whitening import Whitening
from objemb.models import Model
from objemb.models.exported import open_exported
from objemb.runtimes.base import Runtime, readers
from objemb.runtimes.exported import BOXES, FORMATS, PHOTOS, Exported
from objemb.structures import Photo
from tests.cli.conftest import Run, run  # noqa: F401  a fixture
from tests.tiny import random_photo

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
ort = pytest.importorskip("onnxruntime")
if export_run.torch_version() < export_run.MIN_TORCH:
    pytest.skip("objemb export needs a newer PyTorch", allow_module_level=True)

DOCS = Path(__file__).parents[2] / "docs" / "export.md"


@pytest.fixture
def written(graphs: dict[str, Traced], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are those of ``folder``, instead of being traced and written again, which takes long."""

    def copied(_graph: Traced, place: Path, name: str, *_: object) -> list[str]:
        shutil.copyfile(folder / f"{name}.onnx", place / f"{name}.onnx")
        return [f"{name}.onnx"]

    monkeypatch.setattr(export_run, "traced", lambda *_: graphs)
    monkeypatch.setattr(export_run, "write_graph", copied)


def session(folder: Path, name: str) -> Any:
    card = read_card(folder)
    return registry.build(Runtime, {"name": "onnxruntime"}).open(name, Exported.of_card(card, folder), card, folder)


def test_the_folder_is_that_of_the_model(model: Model, folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == ["boxes.onnx", "model.json", "photos.onnx"]
    card = read_card(folder)
    assert card["fingerprint"] == model.fingerprint
    assert card["settings"] == model.settings
    assert card["whitening"]["dim"] == 12
    exported = Exported.of_card(card, folder)
    assert (exported.format, exported.precision, exported.batch, exported.size) == ("onnx", "fp32", 1, None)
    assert exported.max_detections == 4
    assert exported.decode_side == model.decode_side
    assert exported.per_region
    assert exported.in_context
    assert set(exported.verified) == {r.registry_name for r in readers("onnx") if r.is_installed()}
    for verified in exported.verified.values():
        assert verified["failures"] == []
        assert (verified["on"], verified["photos"]) == ("given photos", 4)
        assert verified["matched"] > 4
        assert verified["cosine"] >= 0.9999
        assert verified["tolerances"]["cosine"] == 0.9999
        assert verified["map_exported"] == verified["map_pytorch"]


@pytest.mark.parametrize("size", [(60, 80), (31, 90), (1, 1), (1, 70), (400, 40), (250, 333), (49, 49)])
def test_photos_of_any_size(model: Model, folder: Path, size: tuple[int, int]) -> None:
    photo = random_photo(*size, seed=11)
    expected = model.limited(4).describer.describe([photo])[0]
    pixels = np.ascontiguousarray(photo.pixels.transpose(1, 2, 0))
    found = session(folder, PHOTOS)({"photos": pixels[None]})
    count = int(found["count"][0])
    assert count == len(expected.regions) - 1
    assert np.allclose(found["boxes"][0, :count], expected.regions.boxes[1:], atol=2e-2)
    vectors = np.concatenate([found["whole"], found["vectors"][0, :count]])
    assert float((vectors * expected.vectors).sum(axis=1).min()) > 0.9995
    assert not found["vectors"][0, count:].any()
    again = session(folder, BOXES)({"photo": pixels, "boxes": np.asarray(expected.regions.boxes)})["vectors"]
    assert float((again * expected.vectors).sum(axis=1).min()) > 0.9995


def test_no_path_of_this_machine_is_in_a_graph(folder: Path) -> None:
    for file in folder.glob("*.onnx"):
        assert b".py" not in file.read_bytes()


def test_the_file_alone_says_whose_it_is(model: Model, folder: Path) -> None:
    known = ort.InferenceSession(folder / "photos.onnx").get_modelmeta().custom_metadata_map
    assert known["objemb.fingerprint"] == model.fingerprint


def test_a_graph_that_gives_something_else_is_found_out(model: Model, folder: Path, photos: list[Photo]) -> None:
    """Another model beside the graphs: the photo is named, with what differs."""
    generator = torch.Generator().manual_seed(5)
    other = model.whitened(Whitening.fit(torch.randn(60, 16, generator=generator), 12, fitted_on="noise"))
    exported = open_exported(folder)
    found = verify(other.limited(4), exported, photos[:1], 0.0)
    assert re.match(
        r"photo 0: expected vectors of objects of cosine 0\.9999 or more, found -?0\.\d+", found.failures[0]
    )
    found = verify(other.limited(1), exported, photos[:1], 0.0)
    assert any("found one of the exported model alone, (" in failure for failure in found.failures)
    assert found.unmatched == 3


@pytest.mark.parametrize(("limit", "whose"), [(0.3, "the exported model"), (0.7, "PyTorch")])
def test_boxes_at_a_limit_of_suppression(
    model: Model, folder: Path, photos: list[Photo], monkeypatch: pytest.MonkeyPatch, limit: float, whose: str
) -> None:
    """The graph's limit is 0.5: a box is forgiven only where PyTorch, within the tolerance of its own, has it so."""
    network = model.limited(4).detector.network
    monkeypatch.setattr(network.roi_heads, "nms_thresh", limit)
    opened = open_exported(folder, runtime="onnxruntime")
    refused = verify(model.limited(4), opened, photos, 0.0, search=False)
    assert refused.suppressed == 0
    assert any(f"expected the same boxes, found one of {whose} alone, (" in failure for failure in refused.failures)
    monkeypatch.setitem(TOLERANCES, "fp32", replace(TOLERANCES["fp32"], suppression=0.2))
    forgiven = verify(model.limited(4), opened, photos, 0.0, search=False)
    assert forgiven.failures == []
    assert 0 < forgiven.suppressed <= forgiven.unmatched == refused.unmatched
    assert (network.roi_heads.nms_thresh, network.rpn.nms_thresh) == (limit, 0.7), "as they were"


@pytest.mark.usefixtures("written")
def test_nothing_is_left_of_an_export_that_fails(
    model: Model, photos: list[Photo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TOLERANCES, "fp32", replace(TOLERANCES["fp32"], cosine=1.5))
    with pytest.raises(
        VerificationError, match=r"nothing was written: \n  onnxruntime: photo 1: expected vectors of objects"
    ):
        export_model(
            model, tmp_path / "model", ExportSettings(max_detections=4), photos=photos[1:2], runtimes=["onnxruntime"]
        )
    assert list(tmp_path.iterdir()) == []


def test_whole_numbers_need_photos_to_calibrate_with(model: Model, photos: list[Photo], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="calibration: expected photos to calibrate int8 with, found 0 photos"):
        export_model(model, tmp_path / "model", ExportSettings(precision="int8"))
    with pytest.raises(ValueError, match="calibration: expected none for fp16, found 4 photos"):
        export_model(model, tmp_path / "model", ExportSettings(precision="fp16"), calibration=photos)
    with pytest.raises(ValueError, match="precision: expected fp32 for the format pt2, found int8"):
        ExportSettings(format="pt2", precision="int8")
    assert list(tmp_path.iterdir()) == []


def test_photos_to_calibrate_with_on_the_command_line(run: Run, tmp_path: Path) -> None:  # noqa: F811
    asked = ["export", str(tmp_path), "-o", str(tmp_path / "new")]
    message = run(*asked, "--precision", "int8", code=2).stderr
    assert "--calibrate: expected photos for --precision int8, found 0 paths" in message
    message = run(*asked, "--calibrate", str(tmp_path), code=2).stderr
    assert "--calibrate: expected none with --precision fp32, found 1 paths" in message


@pytest.mark.usefixtures("written")
def test_a_model_in_whole_numbers(
    model: Model, photos: list[Photo], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def calibrated(_graph: Traced, place: Path, name: str, *args: Any) -> list[str]:
        assert args[4] == EXACT, "of a model with a detector"
        onnx.save(quantized(onnx.load(folder / f"{name}.onnx"), args[3], exact=0), place / f"{name}.onnx")
        return [f"{name}.onnx"]

    monkeypatch.setattr(export_run, "write_graph", calibrated)
    settings = ExportSettings(precision="int8", max_detections=4)
    found = export_model(
        model, tmp_path / "model", settings, photos=photos[:2], runtimes=["onnxruntime"], calibration=photos[2:]
    )
    verified = found["onnxruntime"]
    assert 0.5 < verified.cosine < 0.99999
    card = read_card(tmp_path / "model")
    assert Exported.of_card(card, tmp_path / "model").precision == "int8"
    measured = card["export"]["verified"]["onnxruntime"]
    assert measured["map_lost"] == verified.map_pytorch - verified.map_exported
    for name in (PHOTOS, BOXES):
        weights = onnx.load(tmp_path / "model" / f"{name}.onnx").graph.initializer
        assert any(weight.data_type == onnx.TensorProto.INT8 and len(weight.dims) == 4 for weight in weights)


def test_names_on_the_command_line() -> None:
    assert FORMAT_NAMES == FORMATS
    assert PRECISION_NAMES == export_run.PRECISIONS


def test_a_strangers_program(folder: Path, tmp_path: Path) -> None:
    """That of the documentation, word for word: ONNX Runtime, NumPy and Pillow, without objemb."""
    program = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.DOTALL)[0]
    assert len(program.strip().splitlines()) <= 15
    assert not re.search(r"import (objemb|torch)", program)
    (tmp_path / "exported").symlink_to(folder)
    pixels = random_photo(60, 80, seed=1).pixels.transpose(1, 2, 0)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    Image.fromarray(pixels[::-1].copy()).save(tmp_path / "other.jpg")
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.strip().splitlines()
    photo = read_photo(tmp_path / "photo.jpg")
    found = session(folder, PHOTOS)({"photos": np.ascontiguousarray(photo.pixels.transpose(1, 2, 0))[None]})
    assert len(lines) == int(found["count"][0]) > 0
    assert lines[0].startswith(str(found["boxes"][0, 0].round().tolist()))


def test_a_damaged_graph_never_reaches_the_runtime(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "damaged"
    place.mkdir()
    for file in folder.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    (place / "photos.onnx").write_bytes((folder / "photos.onnx").read_bytes()[:-7])
    with pytest.raises(ArtefactMismatchError, match=r"photos\.onnx: expected sha256"):
        session(place, PHOTOS)


@pytest.mark.usefixtures("written")
def test_the_runtimes_that_were_asked_for_prove_an_export(model: Model, photos: list[Photo], tmp_path: Path) -> None:
    settings = ExportSettings(max_detections=4)
    found = export_model(model, tmp_path / "one", settings, photos=photos[:1], runtimes=["onnxruntime"])
    assert list(found) == ["onnxruntime"]
    with pytest.raises(ValueError, match=r"runtime for the format onnx: expected .*, found 'torch'"):
        export_model(model, tmp_path / "two", settings, photos=photos[:1], runtimes=["torch"])
    assert [place.name for place in tmp_path.iterdir()] == ["one"]


def test_runtimes_that_are_missing_are_named(
    model: Model, photos: list[Photo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for runtime in readers("onnx"):
        monkeypatch.setattr(runtime, "is_installed", lambda: False)
    with pytest.raises(ImportError, match=r"expected the runtime openvino; pip install 'objemb\[openvino\]'"):
        export_model(model, tmp_path / "model", photos=photos[:1], runtimes=["openvino"])
    with pytest.raises(ImportError, match=r"expected the runtime onnxruntime; pip install 'objemb\[onnxruntime\]'"):
        export_model(model, tmp_path / "model", photos=photos[:1])


def test_what_only_a_comparison_uses_on_the_command_line(run: Run, tmp_path: Path) -> None:  # noqa: F811
    asked = ["export", str(tmp_path), "-o", str(tmp_path / "new")]
    message = run(*asked, "--runtime", "openvino", code=2).stderr
    assert "--runtime: expected --verify, whose comparison it runs, found openvino alone" in message
    message = run(*asked, "photos", code=2).stderr
    assert "PHOTOS: expected --verify before photos to compare on, found photos alone" in message


@pytest.mark.usefixtures("written")
def test_generated_scenes_in_place_of_photos(
    model: Model,
    photos: list[Photo],
    tmp_path: Path,
    run: Run,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the command, which says what the model was verified on, as the card does."""
    monkeypatch.setattr(scenes, "SHAPES", ((640, 480), (640, 1)))
    model.save(tmp_path / "model")
    command = ["export", str(tmp_path / "model"), "-o", str(tmp_path / "new"), "--max-detections", "4", "--verify"]
    said = run(*command, "--runtime", "onnxruntime")
    assert "by onnxruntime on 2 generated scenes" in said.stdout
    verified = Exported.of_card(read_card(tmp_path / "new"), tmp_path).verified["onnxruntime"]
    assert (verified["on"], verified["photos"]) == ("generated scenes", 2)
    assert verified["matched"] > 0
    assert "by onnxruntime, on generated scenes, photos 2" in run("model", "info", str(tmp_path / "new")).stdout
    with pytest.raises(ValueError, match="scenes: expected no photos beside generated scenes, found 4"):
        export_model(model, tmp_path / "both", photos=photos, scenes=True)


def test_the_script_of_a_checkout_is_the_command() -> None:
    script = [sys.executable, str(DOCS.parents[1] / "tools" / "export.py"), "nothing", "-o", "new", "photos"]
    ran = subprocess.run(script, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "PHOTOS: expected --verify before photos to compare on, found photos alone" in ran.stderr


def test_shapes_of_generated_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = scenes.verification_scenes()
    assert [photo.pixels.shape[1:] for photo in shown] == [photo.size for photo in shown] == list(scenes.SHAPES)
    assert len({photo.id for photo in shown}) == len(shown)
    assert any(height > width > 1 for height, width in scenes.SHAPES), "a portrait"
    assert any(width == 1 for _, width in scenes.SHAPES)
    assert len(set(scenes.SHAPES)) < len(scenes.SHAPES), "for batches"
    monkeypatch.setattr(scenes, "SHAPES", scenes.SHAPES[:1])
    assert scenes.verification_scenes()[0].pixels.tobytes() == shown[0].pixels.tobytes()


@pytest.mark.usefixtures("written")
def test_boxes_left_out_where_there_are_as_many_as_the_graphs_give(
    model: Model, folder: Path, photos: list[Photo]
) -> None:
    """The last of them may be another one of equal score; a better one must not be missing."""
    exported = open_exported(folder)
    rows = model.limited(4).describe(photos[0])
    assert len(rows) == 5
    assert _least_score(exported, rows, 0.0) == rows.regions.scores[-1]
    assert _least_score(exported, rows[:4], 0.0) == 0.0
