from __future__ import annotations

import pickle
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch

from objemb.coco.regions import FrameError
from objemb.images import UnreadableImageError
from objemb.structures import Regions
from objemb.training.data.base import NO_INSTANCE, Example, checked_count, read_next
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


def test_the_next_picture_that_can_be_used_is_read(caplog: pytest.LogCaptureFixture) -> None:
    reasons: list[Exception | None] = [None, UnreadableImageError("no JPEG", "b"), FrameError("other size"), None]

    def read(number: int) -> int:
        error = reasons[number]
        if error is not None:
            raise error
        return number

    def path(number: int) -> Path:
        return Path("next", f"{number}.jpg")

    assert [read_next("sources", n, 4, read, path) for n in (0, 1, 2, 3, 1)] == [0, 3, 3, 3, 3]
    told = [record.getMessage().replace("\\", "/") for record in caplog.records]
    assert told == ["next/1.jpg: left out: no JPEG", "next/2.jpg: left out: other size"], "each once"
    reasons[3] = UnreadableImageError("gone")
    assert read_next("sources", 3, 4, read, path) == 0, "behind the last comes the first"
    reasons[0] = UnreadableImageError("gone")
    with pytest.raises(ValueError, match="sources: expected usable pictures, found that none of 4 can be used"):
        read_next("sources", 2, 4, read, path)
    reasons[0] = KeyError("a fault of the program")
    with pytest.raises(KeyError):
        read_next("sources", 0, 4, read, path)


def test_examples_go_from_process_to_process() -> None:
    photo = random_photo(6, 8, id="a", size=(12, 16))
    extras = {"instances": torch.tensor([4]), "masks": torch.ones(1, 2, 2, dtype=torch.bool), "names": ("cup",)}
    regions = Regions(torch.tensor([[1.0, 2, 3, 4]]), (12, 16), torch.tensor([0.5]), torch.tensor([0]), ("c",), extras)
    examples = [Example(photo, regions), Example(photo, Regions.empty((12, 16)))]
    first, second = pickle.loads(ForkingPickler.dumps(examples))
    assert (first.photo.id, first.photo.size, dict(first.photo.metadata)) == ("a", (12, 16), {"seed": 0})
    assert np.array_equal(first.photo.pixels, photo.pixels)
    assert first.regions.to_json() == regions.to_json()
    assert first.instances.tolist() == [4]
    assert len(second.regions) == 0
    with pytest.raises(TypeError, match="expected no change of a read-only mapping"):
        first.photo.metadata["seed"] = 1


def test_counts() -> None:
    assert (checked_count(None, 5), checked_count(3, 5)) == (5, 3)
    with pytest.raises(ValueError, match="count: expected a number from 1 to 5, found 6"):
        checked_count(6, 5)
