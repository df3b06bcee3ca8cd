"""The one-pass student behind everything that knows models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from objemb.cli.app import command_line
from objemb.config import load_config
from objemb.models import Model, build_model, fit_whitening, load_model

OVERRIDES = [
    "detector.arch=fasterrcnn_mobilenet_v3_large_320_fpn",
    "detector.weights=random",
    "head.weights=random",
    "detector.classes=[cup, pot]",
    "detector.min_size=48",
    "detector.max_size=96",
    "detector.max_detections=4",
    "head.dim=8",
    "head.width=16",
    "min_score=0.0",
]
BOXES = [(1.0, 2.0, 30.0, 40.0), (10.0, 0.0, 80.0, 60.0)]


@pytest.fixture(scope="module")
def student() -> Model:
    return build_model(load_config("one_pass", OVERRIDES))


@pytest.fixture(scope="module")
def folder(student: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "student"
    student.save(folder)
    return folder


def test_a_saved_student_describes_as_before(student: Model, folder: Path, photos: Path) -> None:
    opened = load_model(folder)
    assert (opened.fingerprint, opened.dim, opened.settings) == (student.fingerprint, 8, student.settings)
    for boxes in (None, BOXES):
        expected, found = (m.describe(photos / "0.png", boxes) for m in (student, opened))
        assert torch.equal(torch.as_tensor(found.regions.boxes), torch.as_tensor(expected.regions.boxes))
        assert torch.equal(torch.as_tensor(found.vectors), torch.as_tensor(expected.vectors))


def test_the_card_says_how_pixels_reach_the_network(student: Model, folder: Path) -> None:
    card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    assert card["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    assert card["preprocessing"]["std"] == [0.229, 0.224, 0.225]
    assert card["settings"]["describer"]["detector"]["weights"] is None
    assert student.decode_side == 96


def test_weights_of_the_detector_from_a_file_are_provenance(student: Model, tmp_path: Path) -> None:
    state = student.detector.network.state_dict()  # type: ignore[union-attr]
    torch.save({k: v + 1e-3 if v.is_floating_point() else v for k, v in state.items()}, tmp_path / "d.pth")
    built = build_model(load_config("one_pass", [*OVERRIDES, f"detector.weights={tmp_path / 'd.pth'}"]))
    assert len(built.provenance["weights"]["describer.detector.weights"]["sha256"]) == 64
    assert built.fingerprint != student.fingerprint
    heads = [{k: v for k, v in m.describer.state_dict().items() if k.startswith("head.")} for m in (built, student)]
    assert all(torch.equal(v, heads[1][k]) for k, v in heads[0].items()), "the head starts fresh, and the same"


def test_queries(student: Model, photos: Path) -> None:
    path = photos / "0.png"
    given = student.query(path, boxes=BOXES)
    assert given.vectors.shape == (2, 8)
    assert given.regions.boxes.tolist() == [list(b) for b in BOXES]
    whole = student.query(path, "whole")
    assert torch.allclose(
        torch.as_tensor(whole.vectors), torch.as_tensor(student.query(path, boxes=[(0, 0, 80, 60)]).vectors), atol=1e-5
    )
    found = student.detect(path)
    assert len(found) > 0
    assert torch.equal(torch.as_tensor(student.query(path, "detector").regions.boxes), torch.as_tensor(found.boxes))
    described = student.describe(path)
    assert torch.allclose(torch.as_tensor(described.regions.boxes)[1:], torch.as_tensor(found.boxes))
    both = student.query(path, "both")
    assert torch.equal(torch.as_tensor(both.regions.boxes)[:1], torch.as_tensor(whole.regions.boxes))
    rows = [described.regions.boxes.tolist().index(box) for box in both.regions.boxes.tolist()]
    assert torch.allclose(torch.as_tensor(both.vectors), torch.as_tensor(described.vectors)[rows], atol=1e-5), (
        "as the photo would be indexed"
    )
    assert student.query(path, boxes=BOXES, crop="crop").vectors.shape == (2, 8)
    scaled = student.query(path, boxes=BOXES, crop="scaled")
    assert torch.equal(torch.as_tensor(scaled.vectors), torch.as_tensor(given.vectors)), (
        "the detector's one size is that of the photo"
    )


def test_a_stream_with_another_number_of_boxes_is_still_one_pass(student: Model, photos: Path) -> None:
    passes = []
    detector = student.detector
    assert detector is not None
    hook = detector.network.backbone.fpn.register_forward_pre_hook(lambda *_: passes.append(1))  # type: ignore[attr-defined]
    limited = list(student.stream(photos, batch_size=8, max_regions=1))
    hook.remove()
    assert len(passes) == 1
    assert [len(d) for d in limited] == [2] * 5
    full = list(student.stream(photos, batch_size=8))
    assert max(len(d) for d in full) > 2, "the model itself is not changed"
    for few, all_of_them in zip(limited, full, strict=True):
        assert torch.allclose(torch.as_tensor(few.vectors), torch.as_tensor(all_of_them.vectors)[:2], atol=1e-5)
    fewer = student.limited(1)
    assert (fewer.detector, fewer.fingerprint) == (detector, student.fingerprint)
    for few, same in zip(limited, fewer.stream(photos, batch_size=8), strict=True):
        assert torch.equal(torch.as_tensor(few.vectors), torch.as_tensor(same.vectors))


def test_one_row_per_image(photos: Path) -> None:
    summed = build_model(load_config("one_pass", [*OVERRIDES, "aggregator.name=sum"]))
    described = summed.describe(photos / "0.png")
    assert described.regions.boxes.tolist() == [[0, 0, 80, 60]]
    assert summed.query(photos / "0.png", boxes=BOXES).vectors.shape == (2, 8)
    asked = summed.query(photos / "0.png")
    assert torch.allclose(torch.as_tensor(asked.vectors), torch.as_tensor(described.vectors), atol=1e-5), (
        "a photo is asked for as photos are indexed"
    )


def test_a_whitened_student_comes_back(student: Model, photos: Path, tmp_path: Path) -> None:
    whitened = fit_whitening(student, [photos], dim=3)
    whitened.save(tmp_path / "model")
    opened = load_model(tmp_path / "model")
    assert (opened.dim, opened.fingerprint) == (3, whitened.fingerprint)
    assert torch.equal(
        torch.as_tensor(opened.describe(photos / "1.png").vectors),
        torch.as_tensor(whitened.describe(photos / "1.png").vectors),
    )
    assert student.dim == 8


def test_index_and_search_on_the_command_line(folder: Path, photos: Path, tmp_path: Path) -> None:
    def run(*arguments: Any) -> Any:
        words = [str(a) for a in arguments]
        result = CliRunner().invoke(command_line(words), words)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    index = tmp_path / "index"
    made = run("index", photos, "-o", index, "--model", folder, "--json")
    assert (made["images"], made["skipped"]) == (5, 0)
    assert made["regions"] > 5
    detected = run("detect", photos / "3.png", "--model", folder, "--json")["images"][0]["objects"]
    box = ",".join(str(v) for v in detected[0]["box"])
    for query in ((), ("--box", box), ("--auto",)):
        found = run("search", index, photos / "3.png", *query, "--json")
        assert found["hits"][0]["image"] == "3.png"
        assert found["hits"][0]["score"] == pytest.approx(1, abs=1e-3)
