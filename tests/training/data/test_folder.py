from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from objemb.training.data.compositions import CompositionExamples
from objemb.training.data.folder import FolderExamples
from objemb.training.data.photos import PhotoExamples
from tests.small_data import picture_folder


def minimal(folder: Path) -> dict[str, Any]:
    return {"sources": picture_folder(folder)}


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    for name, colour in (("tea/1.png", "green"), ("tea/2.png", "lime"), ("jam/a.png", "red")):
        file = tmp_path / "crops" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4), colour).save(file)
    return tmp_path / "crops"


def test_a_sub_folder_is_an_instance(crops: Path) -> None:
    examples = FolderExamples(sources=crops)
    assert examples.instances == ("jam", "tea")
    found = [(e.photo.id, e.regions.boxes.tolist(), e.instances.tolist()) for e in examples]
    whole = [[0.0, 0.0, 6.0, 4.0]]
    assert found == [("jam/a.png", whole, [0]), ("tea/1.png", whole, [1]), ("tea/2.png", whole, [1])]
    assert len(FolderExamples(sources=[crops], count=2)) == 2


def test_identities_need_no_pixels(crops: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = FolderExamples(sources=crops)
    monkeypatch.setattr("objemb.training.data.folder.read_photo", None)
    assert [examples.identities(n).tolist() for n in range(3)] == [[0], [1], [1]]
    with pytest.raises(IndexError):
        examples.identities(3)


def test_names_may_come_from_a_file(crops: Path) -> None:
    (crops / "names.csv").write_text("file,instance\ntea/1.png,green\njam/a.png,red\n", encoding="utf-8")
    examples = FolderExamples(sources=crops, names=crops / "names.csv")
    assert (examples.instances, len(examples)) == (("green", "red"), 2)


def test_what_cannot_be_read_is_named(crops: Path, caplog: pytest.LogCaptureFixture) -> None:
    (crops / "tea" / "3.png").write_bytes(b"no picture")
    with caplog.at_level(logging.WARNING):
        assert len(FolderExamples(sources=crops)) == 3
    assert "3.png: left out: " in caplog.text
    (crops / "none").mkdir()
    with pytest.raises(ValueError, match="sources: expected pictures with an instance, found none"):
        FolderExamples(sources=crops / "none")


def test_pictures_that_go_while_they_are_learned_from_give_way(crops: Path, caplog: pytest.LogCaptureFixture) -> None:
    examples = FolderExamples(sources=crops)
    (crops / "tea" / "1.png").unlink()
    (crops / "tea" / "2.png").write_bytes(b"cut off")
    found = [(examples[n].photo.id, examples[n].instances.tolist()) for n in range(3)]
    assert found == [("jam/a.png", [0])] * 3
    assert "1.png: left out: " in caplog.text
    (crops / "jam" / "a.png").unlink()
    with pytest.raises(ValueError, match="found that none of 3 can be used"):
        examples[0]


@pytest.mark.parametrize("sources", [20240101, [20240101], None, {"a": 1}])
def test_sources_are_paths(tmp_path: Path, sources: Any) -> None:
    for make in (lambda: FolderExamples(sources=sources), lambda: PhotoExamples(sources=sources)):
        with pytest.raises(ValueError, match="sources: expected folders, lists or images, found "):
            make()
    with pytest.raises(ValueError, match="backgrounds: expected folders, lists or images, found "):
        CompositionExamples(objects=tmp_path, backgrounds=sources)
