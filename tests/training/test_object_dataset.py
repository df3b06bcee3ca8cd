from __future__ import annotations

import pickle

import pytest
import torch

from objemb.structures import Regions
from objemb.training.data.base import NO_INSTANCE, Example, Examples
from objemb.training.object_dataset import ITEMS, ObjectDataset
from tests.tiny import random_photo


class Labelled(Examples):
    """Photos with boxes of identities, some unknown; the last box has no area."""

    instances = ("a", "b", "c")
    KNOWN = ((0, NO_INSTANCE, 1), (), (NO_INSTANCE,), (0, 2), (0, 0))

    def __len__(self) -> int:
        return len(self.KNOWN)

    def __getitem__(self, number: int) -> Example:
        known = self.KNOWN[self._checked(number)]
        photo = random_photo(40, 60, seed=number, id=f"photo {number}", size=(80, 120))
        boxes = torch.tensor([[10.0 * n, 4, 10 * n + 30, 44] for n in range(len(known))]).reshape(-1, 4)
        if number == 4:
            boxes[1] = torch.tensor([20.0, 20, 20, 20])
        return Example(photo, Regions(boxes, photo.size, extras={"instances": torch.tensor(known).long()}))


ITEMS_OF = ObjectDataset(Labelled())


def test_one_for_each_known_box() -> None:
    assert len(ITEMS_OF) == 6
    assert ITEMS_OF.labels.tolist() == [0, 1, 0, 2, 0, 0]
    assert ITEMS_OF.photos.tolist() == [0, 0, 3, 3, 4, 4]
    assert ITEMS_OF.instances == ("a", "b", "c")


def test_an_item_is_what_is_under_its_box() -> None:
    item = ITEMS_OF[1]
    source = Labelled()[0].photo
    assert item.photo.id == "photo 0#2"
    assert torch.equal(torch.as_tensor(item.photo.pixels), torch.as_tensor(source.pixels)[:, 2:22, 10:25])
    assert item.photo.size == (40, 30)
    assert item.regions.boxes.tolist() == [[0, 0, 30, 40]]
    assert item.instances.tolist() == [1]
    assert item.regions.extras[ITEMS].tolist() == [1]
    assert ITEMS_OF.identities(1).tolist() == [1]
    assert len({ITEMS_OF[n].photo.id for n in range(6)}) == 6


def test_a_box_without_area_is_a_pixel() -> None:
    assert ITEMS_OF[5].photo.pixels.shape == (3, 1, 1)


def test_partners_are_in_other_photos() -> None:
    assert [ITEMS_OF.partners(n).tolist() for n in range(6)] == [[2, 4, 5], [], [0, 4, 5], [], [0, 2], [0, 2]]


def test_beyond_the_last_and_elsewhere() -> None:
    with pytest.raises(IndexError):
        ITEMS_OF[6]
    there = pickle.loads(pickle.dumps(ITEMS_OF))
    assert torch.equal(torch.as_tensor(there[3].photo.pixels), torch.as_tensor(ITEMS_OF[3].photo.pixels))


def test_without_any() -> None:
    class Unknown(Labelled):
        KNOWN = ((), (NO_INSTANCE,))

    assert len(ObjectDataset(Unknown())) == 0
