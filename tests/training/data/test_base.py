from __future__ import annotations

import pytest
import torch

from objemb.structures import Regions
from objemb.training.data.base import NO_INSTANCE, Example, checked_count
from tests.tiny import random_photo


def test_identities_are_optional() -> None:
    photo = random_photo(4, 6)
    whole = Regions.whole(photo.size)
    assert Example(photo, whole).instances.tolist() == [NO_INSTANCE]
    known = Regions(whole.boxes, photo.size, extras={"instances": torch.tensor([7])})
    assert Example(photo, known).instances.tolist() == [7]
    assert Example(photo, Regions.empty(photo.size)).instances.dtype == torch.int64


def test_what_does_not_belong_together_is_named() -> None:
    photo = random_photo(4, 6, id="cup")
    with pytest.raises(ValueError, match=r"Example cup: expected regions in the frame of the photo \(4, 6\)"):
        Example(photo, Regions.whole((6, 4)))
    wrong = Regions(Regions.whole((4, 6)).boxes, (4, 6), extras={"instances": torch.tensor([0.5])})
    with pytest.raises(TypeError, match="Example cup: expected instances as int64 numbers"):
        Example(photo, wrong)


def test_counts() -> None:
    assert (checked_count(None, 5), checked_count(3, 5)) == (5, 3)
    with pytest.raises(ValueError, match="count: expected a number from 1 to 5, found 6"):
        checked_count(6, 5)
