from __future__ import annotations

import pickle

import torch

from objemb.structures import Regions
from objemb.training.data.base import Example
from objemb.training.packing import pack, unpack
from tests.tiny import random_photo


def test_examples_survive_the_way_between_processes() -> None:
    photo = random_photo(6, 8, id="a", size=(12, 16))
    extras = {"instances": torch.tensor([4]), "masks": torch.ones(1, 2, 2, dtype=torch.bool), "names": ("cup",)}
    regions = Regions(torch.tensor([[1.0, 2, 3, 4]]), (12, 16), torch.tensor([0.5]), torch.tensor([0]), ("c",), extras)
    examples = [Example(photo, regions), Example(photo, Regions.empty((12, 16)))]
    first, second = unpack(pickle.loads(pickle.dumps(pack(examples))))
    assert (first.photo.id, first.photo.size, dict(first.photo.metadata)) == ("a", (12, 16), {"seed": 0})
    assert torch.equal(torch.as_tensor(first.photo.pixels), torch.as_tensor(photo.pixels))
    assert first.regions.to_json() == regions.to_json()
    assert first.instances.tolist() == [4]
    assert len(second.regions) == 0
