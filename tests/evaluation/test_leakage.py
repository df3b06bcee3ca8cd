from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from objemb.config import load_config
from objemb.datasets.evaluation_set import EvaluationSet, read_evaluation_set
from objemb.evaluation.leakage import SeenPhotos, find_leaks, learned_from, sources_in
from objemb.models import build_model
from objemb.models.fitting import whiten
from tests.evaluation.colours import write_set


@pytest.fixture
def data(tmp_path: Path) -> EvaluationSet:
    (tmp_path / "set").mkdir()
    return read_evaluation_set(write_set(tmp_path / "set"))


@pytest.fixture
def seen(data: EvaluationSet) -> SeenPhotos:
    return SeenPhotos(data)


def test_by_place(seen: SeenPhotos, data: EvaluationSet, tmp_path: Path) -> None:
    folder = data.path.parent
    (tmp_path / "link").symlink_to(folder)
    assert len(seen.among(folder)) == 4
    assert len(seen.among(tmp_path / "link")) == 4
    assert seen.among(folder / "a.png") == {(folder / "a.png").resolve()}
    (tmp_path / "list.txt").write_text("set/a.png\nset/b.png\nset/gone.png\n")
    assert len(seen.among(tmp_path / "list.txt")) == 2
    assert len(seen.among(data.path)) == 4, "an evaluation set: its images and its queries"


def test_by_content(seen: SeenPhotos, data: EvaluationSet, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (8, 8)).save(other / "new.png")
    assert seen.among(other) == set()
    shutil.copy(data.photo("b.png"), other / "renamed.png")
    assert seen.among(other) == {data.photo("b.png").resolve()}
    same_size = bytearray(data.photo("a.png").read_bytes())
    same_size[-1] ^= 1
    (other / "renamed.png").write_bytes(same_size)
    assert seen.among(other) == set()


def test_what_is_not_there_holds_nothing(seen: SeenPhotos, tmp_path: Path) -> None:
    assert seen.among(tmp_path / "gone") == set()
    (tmp_path / "broken.json").write_text("{")
    assert seen.among(tmp_path / "broken.json") == set()


def test_missing_photos_are_the_same_as_nothing(data: EvaluationSet, tmp_path: Path) -> None:
    data.photo("a.png").unlink()
    data.photo("b.png").write_bytes(b"")
    (tmp_path / "empty.png").write_bytes(b"")
    assert SeenPhotos(data).among(tmp_path / "empty.png") == set()


def test_leaks_by_part(data: EvaluationSet, tmp_path: Path) -> None:
    folder, elsewhere = str(data.path.parent), str(tmp_path / "elsewhere")
    parts = {"whitening": [elsewhere, folder, f"{folder}/a.png"], "pooling": [elsewhere], "attention": []}
    (leak,) = find_leaks(parts, data)
    assert (leak.part, leak.sources, leak.photos) == ("whitening", (folder, f"{folder}/a.png"), 4)
    assert str(leak).startswith("the whitening was fitted on 4 photos of the evaluation set (")
    assert "1 photo of" in str(find_leaks({"pooling": [f"{folder}/a.png"]}, data)[0])


def test_distractors_do_not_count(data: EvaluationSet) -> None:
    folder = str(data.path.parent)
    (leak,) = find_leaks({"whitening": [folder]}, replace(data, distractors=2))
    assert leak.photos == 2  # the first image and the query of its own
    assert find_leaks({}, data) == []


def test_sources_in_words() -> None:
    assert sources_in("12 regions of 3 photos: a b, c/d.jpg") == ["a b", "c/d.jpg"]
    assert sources_in("folder") == ["folder"]
    assert sources_in("") == []


def test_what_a_model_says_that_it_learned_from(tmp_path: Path) -> None:
    backbone = {"name": "narrow_resnet", "width": 4, "blocks": [1, 1, 1, 1]}
    model = build_model(load_config("mac", [f"backbone={json.dumps(backbone)}", "extractor.size=64"]))
    assert learned_from(model) == {}
    whitened = whiten(model, torch.eye(model.dim), fitted_on="9 regions of 3 photos: photos/, more.csv")
    assert learned_from(whitened) == {"whitening": ["photos/", "more.csv"]}
    assert learned_from(whitened, [Path("a, b")]) == {"whitening": ["photos/", "more.csv", "a, b"]}
    teacher = tmp_path / "teacher"
    data = {"data": {"name": "folder", "folder": "train", "split": "half"}, "seed": 0}
    replace(model, provenance={"training": data}).save(teacher)
    student = replace(model, provenance={"weights": {"describer.backbone": {"name": str(teacher)}}})
    assert learned_from(student) == {"describer.backbone of the network": ["train"]}
