from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from objemb.training.data.photos import PhotoExamples
from tests.datasets.pictures import noise
from tests.small_data import picture_folder


def minimal(folder: Path) -> dict[str, Any]:
    return {"sources": picture_folder(folder)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        noise((90, 60 + 10 * number), number).save(tmp_path / f"{number}.png")
    return tmp_path


def test_every_photo_has_boxes_inside_it(folder: Path) -> None:
    photos = PhotoExamples(sources=folder, boxes=[2, 5], box_size=[0.1, 0.9], aspect=2.0)
    assert (len(photos), photos.instances, photos.classes) == (3, (), ())
    for number in range(3):
        example = photos[number]
        assert example.photo.id == f"{number}.png"
        assert 2 <= len(example.regions) <= 5
        width, height = (
            torch.as_tensor(example.regions.boxes)[:, 2:] - torch.as_tensor(example.regions.boxes)[:, :2]
        ).unbind(1)
        assert torch.maximum(width / height, height / width).max() <= 2.01
        whole = (example.photo.size[0] * example.photo.size[1]) ** 0.5
        assert (width * height).sqrt().min() >= 0.0999 * whole
        assert (example.instances == -1).all()


def test_sizes_are_drawn_log_uniformly(folder: Path) -> None:
    photos = PhotoExamples(sources=folder / "0.png", boxes=[2000, 2000], box_size=[0.04, 0.64], aspect=1.0)
    boxes = torch.as_tensor(photos[0].regions.boxes)
    sides = (boxes[:, 2] - boxes[:, 0]) / (60 * 90) ** 0.5
    quarters = (sides / 0.04).log2() / 4  # 0.04 to 0.64 are four octaves
    assert torch.histc(quarters, 4, 0, 1).div(2000).sub(0.25).abs().max() < 0.05


def test_an_example_is_a_function_of_its_number(folder: Path) -> None:
    photos = PhotoExamples(sources=[folder], views=3)
    again = pickle.loads(pickle.dumps(photos))
    for number in (8, 0, 4):
        assert torch.equal(torch.as_tensor(photos[number].regions.boxes), torch.as_tensor(again[number].regions.boxes))
        assert torch.equal(torch.as_tensor(photos[number].photo.pixels), torch.as_tensor(again[number].photo.pixels))
    other = PhotoExamples(sources=[folder], views=3, seed=1)
    assert not torch.equal(torch.as_tensor(photos[0].regions.boxes), torch.as_tensor(other[0].regions.boxes))


def test_views_are_parts_in_a_frame_of_their_own(folder: Path) -> None:
    photos = PhotoExamples(sources=folder, views=4, view_size=[0.4, 0.6])
    assert len(photos) == 12
    whole, part = photos[1].photo, photos[4].photo
    assert (whole.id, part.id) == ("1.png", "1.png#1")
    assert part.size == tuple(part.pixels.shape[1:])
    assert all(0.39 <= p / w <= 0.61 for p, w in zip(part.size, whole.size, strict=True))
    colours = {tuple(c) for c in whole.pixels.reshape(3, -1).T.tolist()}
    assert {tuple(c) for c in part.pixels.reshape(3, -1).T.tolist()} <= colours


def test_a_photo_that_cannot_be_read_is_replaced_by_the_next(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "1.png").write_bytes(b"no image")
    with caplog.at_level(logging.WARNING):
        photos = PhotoExamples(sources=folder)
        assert [photos[n].photo.id for n in range(3)] == ["0.png", "2.png", "2.png"]
        assert photos[1].photo.id == "2.png"
    assert [("1.png" in r.getMessage(), "left out" in r.getMessage()) for r in caplog.records] == [(True, True)]
    for file in folder.iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(ValueError, match="found that none of 3 can be used"):
        photos[0]


def test_wrong_arguments(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="expected at least one photo, found none"):
        PhotoExamples(sources=tmp_path / "empty")
    with pytest.raises(ValueError, match="exist"):
        PhotoExamples(sources=tmp_path / "missing")
    with pytest.raises(IndexError, match="from 0 to 2, found 3"):
        PhotoExamples(sources=folder)[3]
    for arguments in ({"boxes": [5, 2]}, {"box_size": [0, 1]}, {"aspect": 0.5}, {"views": 0}, {"count": 4}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            PhotoExamples(sources=folder, **arguments)  # type: ignore[arg-type]
