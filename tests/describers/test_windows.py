from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from objemb.describers._windows import windows_around
from objemb.ops.windows import BATCH, Windows, input_windows
from objemb.structures import Photo, Regions
from tests.tiny import plain_photo, random_photo

GREY = torch.tensor([0.25, 0.5, 0.75])


def ramp(height: int, width: int, size: tuple[int, int] | None = None) -> Photo:
    """A photo whose red says the column and whose green says the row."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return Photo("ramp", torch.stack([columns, rows, 0 * rows]).byte(), size or (height, width))


def windows_of(
    photo: Photo, *boxes: tuple[float, float, float, float], side: float = 16.0, multiple: int = 16
) -> list[Windows]:
    regions = Regions(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), photo.size)
    return list(windows_around([photo], [regions], [True] * len(boxes), side, GREY, multiple))


def test_a_box_of_the_wanted_side_is_cut_out_with_its_surroundings() -> None:
    """16 pixels and a margin of 8 on both sides make 32; the box is in the middle, and no pixel is resampled."""
    (one,) = windows_of(ramp(100, 100), (40, 50, 56, 66))
    assert one.numbers == [0]
    assert one.boxes.tolist() == [[8, 8, 24, 24]]
    expected = torch.as_tensor(ramp(100, 100).pixels)[:, 42:74, 32:64].float() / 255
    assert torch.equal(torch.as_tensor(one.pixels), expected[None])


def test_larger_and_smaller_objects_come_to_the_same_side() -> None:
    photo = random_photo(200, 200)
    for box, part in (((50.0, 50, 58, 58), (46, 62)), ((48.0, 48, 112, 112), (16, 144))):
        (one,) = windows_of(photo, box)
        assert one.boxes.tolist() == [[8, 8, 24, 24]]
        cut = torch.as_tensor(photo.pixels)[:, part[0] : part[1], part[0] : part[1]].float()[None]
        expected = F.interpolate(cut, (32, 32), mode="bilinear", antialias=True)
        assert (255 * torch.as_tensor(one.pixels) - expected).abs().max() <= 1, "bytes in between"


def test_at_the_border_the_window_moves_into_the_photo() -> None:
    (one,) = windows_of(ramp(100, 100), (0, 84, 16, 100))
    assert one.boxes.tolist() == [[0, 16, 16, 32]]
    assert torch.equal(
        torch.as_tensor(one.pixels)[0], torch.as_tensor(ramp(100, 100).pixels)[:, 68:, :32].float() / 255
    )


def test_where_the_photo_ends_a_colour_fills_the_rest() -> None:
    """The whole of a photo of 8 x 16 pixels: twice its size is 16 x 32, and what is below it is filled."""
    photo = random_photo(8, 16)
    (one,) = windows_of(photo, (0, 0, 16, 8), side=32.0, multiple=32)
    assert one.boxes.tolist() == [[0, 0, 32, 16]]
    assert one.pixels.shape == (1, 3, 32, 32)
    assert torch.equal(torch.as_tensor(one.pixels)[0, :, 16:], GREY[:, None, None].expand(3, 16, 32))
    expected = F.interpolate(torch.as_tensor(photo.pixels).float()[None], (16, 32), mode="bilinear", antialias=True)
    assert (255 * torch.as_tensor(one.pixels)[:, :, :16] - expected).abs().max() <= 1


def test_windows_are_as_long_as_their_objects() -> None:
    (one,) = windows_of(ramp(200, 200), (20, 20, 148, 52), side=112.0)
    assert one.pixels.shape == (1, 3, 48, 128), "28 pixels of height and twice the margin are 44"
    x1, y1, x2, y2 = one.boxes[0].tolist()
    assert x2 - x1 == pytest.approx(112, rel=0.02)
    assert y2 - y1 == pytest.approx(28, rel=0.06)


def test_boxes_are_in_original_pixels() -> None:
    small, large = ramp(100, 100), ramp(100, 100, size=(400, 400))
    (one,), (other,) = windows_of(small, (40, 50, 56, 66)), windows_of(large, (160, 200, 224, 264))
    assert torch.equal(torch.as_tensor(one.pixels), torch.as_tensor(other.pixels))
    assert torch.equal(torch.as_tensor(one.boxes), torch.as_tensor(other.boxes))


def test_shapes_are_together_and_numbers_tell_the_boxes() -> None:
    first, second = plain_photo(64, 64, (10, 20, 30)), plain_photo(200, 100, (40, 50, 60))
    regions = [
        Regions(torch.tensor([[0.0, 0, 8, 8], [8, 8, 24, 24]]), first.size),
        Regions.empty(first.size),
        Regions(torch.tensor([[0.0, 0, 100, 200], [30, 30, 40, 40]]), second.size),
    ]
    chosen = [True, False, True, True]
    found = list(windows_around([first, first, second], regions, chosen, 64.0, GREY))
    assert sorted(number for windows in found for number in windows.numbers) == [0, 2, 3]
    reds = {n: round(float(255 * p[0, 0, 0])) for w in found for n, p in zip(w.numbers, w.pixels, strict=True)}
    assert reds == {0: 10, 2: 40, 3: 40}
    assert len({tuple(w.pixels.shape[2:]) for w in found}) == len(found), "a shape comes once"


def test_batches_are_bounded() -> None:
    photo = random_photo(64, 64)
    found = windows_of(photo, *[(float(n % 50), 3.0, n % 50 + 5.0, 8.0) for n in range(2 * BATCH + 1)])
    assert sorted(len(w.numbers) for w in found) == [1, BATCH, BATCH]


@pytest.mark.parametrize(
    ("size", "box"),
    [((1, 1), (0, 0, 1, 1)), ((1, 500), (0, 0, 500, 1)), ((50, 50), (7, 7, 7, 7)), ((50, 50), (49.9, 49.9, 50, 50))],
)
def test_what_has_hardly_a_pixel_has_a_window(size: tuple[int, int], box: tuple[float, ...]) -> None:
    (one,) = windows_of(random_photo(*size), box, side=112.0)  # type: ignore[arg-type]
    height, width = one.pixels.shape[2:]
    assert height % 16 == 0
    assert width % 16 == 0
    assert max(height, width) <= 128
    assert bool(torch.isfinite(torch.as_tensor(one.boxes)).all())
    assert bool((one.boxes[:, 2:] <= torch.tensor([width + 1.0, height + 1])).all())


def test_windows_of_an_input_are_those_of_a_photo_of_its_pixels() -> None:
    """Floats are not rounded to bytes; padding is not part of a picture, and zeros fill the rest of a window."""
    photo = random_photo(40, 60)
    boxes = torch.tensor([[0.0, 0, 60, 40], [3, 5, 20, 11], [50, 30, 60, 40]])
    padded = F.pad(torch.as_tensor(photo.pixels).float() / 255, (0, 4, 0, 24), value=9.0)[None]
    found = list(input_windows(padded, [(40, 60)], [boxes], [True] * 3, 64.0, 32))
    expected = list(windows_around([photo], [Regions(boxes, (40, 60))], [True] * 3, 64.0, torch.zeros(3), 32))
    assert [w.numbers for w in found] == [w.numbers for w in expected]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.boxes, other.boxes)
        assert float((one.pixels - other.pixels).abs().max()) < 1.1 / 255


def test_colours_of_a_narrow_input_stay_apart() -> None:
    """The window of an image that is two pixels wide and 100 high has one column of it."""
    colours = torch.arange(3.0)[:, None, None].expand(3, 100, 2)[None]
    (one,) = input_windows(colours, [(100, 2)], [torch.tensor([[0.0, 0, 2, 100]])], [True], 50.0, 16)
    assert torch.allclose(one.pixels[0, :, :50, :1], torch.arange(3.0)[:, None, None].expand(3, 50, 1))
    assert not one.pixels[0, :, :, 1:].any()


def test_no_boxes_no_windows() -> None:
    assert windows_of(random_photo(20, 20)) == []
