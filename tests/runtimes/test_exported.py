from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from objemb.card import read_card, write_folder
from objemb.checks import ArtefactMismatchError
from objemb.runtimes.exported import BOXES, EXPORT, PHOTOS, Exported, Graph, TensorSpec

EXPORTED = Exported(
    format="onnx",
    precision="fp32",
    graphs={
        PHOTOS: Graph(
            ("photos.onnx",),
            (TensorSpec("photos", "uint8", (1, None, None, 3)),),
            (TensorSpec("boxes", "float32", (1, 20, 4)), TensorSpec("whole", "float32", (1, 8))),
        )
    },
    batch=1,
    size=None,
    max_detections=20,
    classes=("cup",),
    decode_side=512,
    per_region=True,
    in_context=True,
    opset=20,
    verified={"photos": 3},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    card = {"fingerprint": "0" * 64, "settings": {}, EXPORT: EXPORTED.as_card()}
    write_folder(
        tmp_path / "exported", card, lambda partial: (partial / "photos.onnx").write_bytes(b"graph"), force=False
    )
    return tmp_path / "exported"


def test_a_card_says_what_was_exported(folder: Path) -> None:
    card = read_card(folder)
    assert Exported.of_card(card, folder) == EXPORTED
    assert EXPORTED.contents(PHOTOS, card, folder) == [b"graph"]
    assert card["files"]["photos.onnx"]["bytes"] == 5


def test_a_damaged_graph_is_refused_by_its_checksum(folder: Path) -> None:
    (folder / "photos.onnx").write_bytes(b"grap")
    with pytest.raises(ArtefactMismatchError, match=r"photos\.onnx: expected sha256 \w{64}, found \w{64}"):
        EXPORTED.contents(PHOTOS, read_card(folder), folder)
    (folder / "photos.onnx").unlink()
    with pytest.raises(ArtefactMismatchError, match="found no file"):
        EXPORTED.contents(PHOTOS, read_card(folder), folder)


def test_a_graph_that_is_not_there(folder: Path) -> None:
    with pytest.raises(ArtefactMismatchError, match=r"expected a graph 'boxes', found \['photos'\]"):
        EXPORTED.contents(BOXES, read_card(folder), folder)


def test_the_card_of_a_model_that_was_not_exported(folder: Path) -> None:
    card = read_card(folder)
    del card[EXPORT]
    with pytest.raises(ArtefactMismatchError, match="expected a model that 'objemb export' made"):
        Exported.of_card(card, folder)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("format",), "tflite", "format: expected one of"),
        (("batch",), 0, "batch: expected an integer of 1 or more, found 0"),
        (("graphs", PHOTOS, "files"), ["../photos.onnx"], "files: expected one of 'photos.onnx'"),
        (("graphs", PHOTOS, "files"), ["/etc/passwd"], "files: expected one of"),
        (("graphs", PHOTOS, "inputs"), [{"name": "photos"}], "no 'shape'"),
        (("graphs",), [], "export"),
        (("graphs",), {}, "expected a graph 'photos'"),
        (("size",), [480], "export"),
        (("per_region",), "no", "per_region: expected true or false"),
    ],
)
def test_a_damaged_card(folder: Path, path: tuple[str, ...], value: object, reason: str) -> None:
    card: dict[str, Any] = copy.deepcopy(json.loads((folder / "model.json").read_bytes()))
    inner = card[EXPORT]
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(ArtefactMismatchError, match=reason):
        Exported.of_card(card, folder)


def test_a_file_of_another_folder_that_the_checksums_name(folder: Path) -> None:
    card = read_card(folder)
    card["files"]["../photos.onnx"] = {"sha256": "0" * 64}
    card[EXPORT]["graphs"][PHOTOS]["files"] = ["../photos.onnx"]
    with pytest.raises(ArtefactMismatchError, match=r"files: expected one of 'photos\.onnx'"):
        Exported.of_card(card, folder)


def test_no_boxes_at_all(folder: Path) -> None:
    """`--max-detections 0`: outputs without a row."""
    card = read_card(folder)
    card[EXPORT]["graphs"][PHOTOS]["outputs"][0]["shape"] = [1, 0, 4]
    card[EXPORT]["max_detections"] = 0
    exported = Exported.of_card(card, folder)
    assert exported.max_detections == 0
    assert exported.graphs[PHOTOS].outputs[0].shape == (1, 0, 4)
