from __future__ import annotations

import numpy as np
import pytest
import torch

from objemb.structures import Regions
from objemb.training.augment import flip_some, jitter_boxes, jitter_colours, jitter_photo, mirrored
from objemb.training.data.base import Example
from tests.tiny import random_photo


def test_boxes_move_within_bounds_and_the_image() -> None:
    torch.manual_seed(0)
    regions = Regions(torch.tensor([[40.0, 40, 60, 80]]).repeat(200, 1), (100, 100))
    moved = torch.as_tensor(jitter_boxes(regions, 0.1).boxes)
    centres, sides = (moved[:, :2] + moved[:, 2:]) / 2, moved[:, 2:] - moved[:, :2]
    assert ((centres - torch.tensor([50.0, 60])).abs() <= torch.tensor([2.0, 4.0]) + 1e-4).all()
    assert ((sides / torch.tensor([20.0, 40])).log().abs() <= 0.1 + 1e-4).all()
    assert len(moved.unique(dim=0)) == 200
    whole = torch.as_tensor(jitter_boxes(Regions.whole((10, 10)), 1.0).boxes)
    assert whole.min() >= 0
    assert whole.max() <= 10


def test_nothing_to_do() -> None:
    regions = Regions.whole((4, 4))
    assert jitter_boxes(regions, 0.0) is regions
    assert len(jitter_boxes(Regions.empty((4, 4)), 0.5)) == 0
    assert jitter_colours(torch.zeros(0, 3, 2, 2), 0.5).shape == (0, 3, 2, 2)
    with pytest.raises(ValueError, match="colour_jitter: expected a number from 0 to 1"):
        jitter_colours(torch.zeros(1, 3, 2, 2), 2.0)


def test_colours_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    # brightness 1.2, contrast 0.8, saturation 1: grey pictures stay grey
    monkeypatch.setattr(torch, "rand", lambda *shape: torch.tensor([1.0, 0.0, 0.5]).reshape(3, 1, 1, 1, 1))
    images = torch.tensor([0.2, 0.4]).reshape(1, 1, 1, 2).expand(1, 3, 1, 2)
    found = jitter_colours(images, 0.2)
    torch.testing.assert_close(found[0, 0, 0], torch.tensor([0.36 - 0.12 * 0.8, 0.36 + 0.12 * 0.8]))
    assert torch.equal(found[:, 0], found[:, 2])


def test_colours_differ_by_image_and_repeat_with_the_seed() -> None:
    images = torch.rand(4, 3, 5, 5)
    torch.manual_seed(1)
    first = jitter_colours(images, 0.4)
    torch.manual_seed(1)
    assert torch.equal(first, jitter_colours(images, 0.4))
    assert first.min() >= 0
    assert first.max() <= 1


def test_some_are_mirrored() -> None:
    torch.manual_seed(0)
    images = torch.arange(4.0).reshape(1, 1, 1, 4).expand(64, 3, 1, 4)
    firsts = flip_some(images)[:, 0, 0, 0].tolist()
    assert set(firsts) == {0.0, 3.0}


def test_mirrored_examples() -> None:
    photo = random_photo(20, 30, size=(40, 60))
    mask = torch.zeros(1, 4, 4, dtype=torch.uint8)
    mask[:, :, 0] = 1
    extras = {"masks": mask, "instances": torch.tensor([3])}
    example = Example(photo, Regions(torch.tensor([[10.0, 5, 20, 30]]), (40, 60), extras=extras))
    found = mirrored(example)
    assert found.regions.boxes.tolist() == [[40, 5, 50, 30]]
    assert found.regions.extras["masks"][0, 0].tolist() == [0, 0, 0, 1]
    assert found.instances.tolist() == [3]
    assert torch.equal(torch.as_tensor(found.photo.pixels), torch.as_tensor(photo.pixels).flip(2))
    twice = mirrored(found)
    assert torch.equal(torch.as_tensor(twice.photo.pixels), torch.as_tensor(photo.pixels))
    assert twice.regions.to_json() == example.regions.to_json()
    empty = Example(photo, Regions.empty(photo.size))
    assert len(mirrored(empty).regions) == 0


def test_colours_of_examples_change_and_nothing_else() -> None:
    photo = random_photo(20, 30)
    example = Example(photo, Regions.whole(photo.size))
    assert jitter_photo(example, 0.0) is example
    torch.manual_seed(0)
    found = jitter_photo(example, 0.5)
    assert found.photo.pixels.dtype == np.uint8
    assert not torch.equal(torch.as_tensor(found.photo.pixels), torch.as_tensor(photo.pixels))
    assert found.regions is example.regions
