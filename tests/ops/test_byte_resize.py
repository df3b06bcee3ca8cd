from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from objemb.ops import byte_resize
from objemb.ops.byte_resize import FLOATS, PILLOW, resized_parts
from objemb.ops.images import resize
from objemb.ops.windows import Cut, input_window


def sides(*rows_and_columns: tuple[int, int]) -> torch.Tensor:
    return torch.tensor(rows_and_columns, dtype=torch.float64)


def noise(height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("part", "size", "canvas", "first"),
    [
        ((0, 0, 37, 23), (12, 20), (12, 20), (0, 0)),
        ((0, 0, 37, 23), (60, 41), (64, 48), (2, 5)),
        ((5, 3, 29, 4), (9, 9), (9, 9), (0, 0)),
        ((7, 2, 8, 22), (20, 1), (20, 6), (0, 3)),
        ((3, 1, 12, 10), (9, 9), (9, 9), (0, 0)),
    ],
)
def test_it_is_the_resize_of_bytes(
    part: tuple[int, int, int, int], size: tuple[int, int], canvas: tuple[int, int], first: tuple[int, int]
) -> None:
    photo = noise(23, 37)
    x1, y1, x2, y2 = part
    found = resized_parts(photo, sides((y1, x1)), sides((y2, x2)), sides(size), sides(first), canvas)[0]
    expected = resize(photo.permute(2, 0, 1)[:, y1:y2, x1:x2].contiguous(), size).float()
    inside = found[:, first[0] : first[0] + size[0], first[1] : first[1] + size[1]]
    if size[1] > 1 or x2 - x1 == 1:
        assert torch.equal(inside, expected)
    else:  # the reference then sums columns first
        assert float((inside - expected).abs().max()) <= 1
    outside = torch.ones(canvas, dtype=torch.bool)
    outside[first[0] : first[0] + size[0], first[1] : first[1] + size[1]] = False
    assert not found[:, outside].any()


@pytest.mark.parametrize("sides_of_photo", [(96, 72), (960, 720), (3, 8000)])
def test_it_is_the_resize_of_bytes_where_results_lie_half_between_two(sides_of_photo: tuple[int, int]) -> None:
    """Of photos that are reduced by a whole factor, as of others."""
    photo, none, size = noise(*sides_of_photo), sides((0, 0)), (48, 36)
    found = resized_parts(photo, none, sides(sides_of_photo), sides(size), none, size)[0]
    assert torch.equal(found, resize(photo.permute(2, 0, 1).contiguous(), size).float())


@pytest.mark.parametrize("size", [(12, 20), (46, 37), (60, 41), (8, 1)])
def test_it_is_the_resize_of_pillow(size: tuple[int, int]) -> None:
    """To the byte, also where results lie half between two."""
    photo, none = noise(24, 40), sides((0, 0))
    found = resized_parts(photo, none, sides((24, 40)), sides(size), none, size, PILLOW)[0]
    expected = Image.fromarray(photo.numpy()).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    assert np.array_equal(found.permute(1, 2, 0).numpy(), np.asarray(expected))


@pytest.mark.parametrize("size", [(9, 30), (40, 17), (6, 1)])
def test_it_is_the_resize_of_floats(size: tuple[int, int]) -> None:
    picture = torch.randn(23, 37, 3, generator=torch.Generator().manual_seed(0))
    begin, stop = sides((2, 5)), sides((19, 30))
    found = resized_parts(picture, begin, stop, sides(size), sides((0, 0)), (48, 32), FLOATS)[0]
    expected = input_window(picture.permute(2, 0, 1), Cut((5, 2, 30, 19), size, (48, 32), (0.0, 0.0, 1.0, 1.0)))
    assert torch.allclose(found, expected, atol=1e-5)


def test_several_parts_at_once() -> None:
    photo = noise(10, 8)
    begin, stop = sides((0, 0), (2, 1)), sides((8, 8), (7, 6))
    size, first = sides((4, 5), (6, 3)), sides((0, 0), (1, 2))
    both = resized_parts(photo, begin, stop, size, first, (7, 6))
    assert both.shape == (2, 3, 7, 6)
    for i in range(2):
        one = slice(i, i + 1)
        assert torch.equal(both[one], resized_parts(photo, begin[one], stop[one], size[one], first[one], (7, 6)))


def test_some_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ends, sizes, first = sides((23, 37), (21, 30)), sides((9, 14), (12, 12)), sides((0, 0), (3, 1))
    args = (noise(23, 37), sides((0, 0), (3, 5)), ends, sizes, first)
    at_once = resized_parts(*args, (16, 16))
    for pixels in (1, 37, 5 * 37):
        monkeypatch.setattr(byte_resize, "AT_A_TIME", pixels)
        assert torch.equal(resized_parts(*args, (16, 16)), at_once)
