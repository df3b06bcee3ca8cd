from __future__ import annotations

import pytest
import torch

from objemb.ops.byte_resize import filter_weights, resized_parts
from objemb.ops.images import resize


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


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
    photo = torch.randint(0, 256, (23, 37, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    x1, y1, x2, y2 = part
    rows = filter_weights(column(y1), column(y2), column(size[0]), column(first[0]), canvas[0], 23)
    columns = filter_weights(column(x1), column(x2), column(size[1]), column(first[1]), canvas[1], 37)
    found = resized_parts(photo, rows, columns)[0]
    expected = resize(photo.permute(2, 0, 1)[:, y1:y2, x1:x2].contiguous(), size).float()
    inside = found[:, first[0] : first[0] + size[0], first[1] : first[1] + size[1]]
    difference = (inside - expected).abs()
    assert float(difference.max()) <= 1
    assert float(difference.mean()) < 0.03
    outside = torch.ones(canvas, dtype=torch.bool)
    outside[first[0] : first[0] + size[0], first[1] : first[1] + size[1]] = False
    assert not found[:, outside].any()


def test_several_parts_at_once() -> None:
    photo = torch.randint(0, 256, (10, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    begin, stop, size, first = column(0, 2), column(8, 7), column(4, 6), column(0, 1)
    rows = filter_weights(begin, stop, size, first, 7, 10)
    columns = filter_weights(begin, stop, size, first, 7, 8)
    both = resized_parts(photo, rows, columns)
    assert both.shape == (2, 3, 7, 7)
    for i in range(2):
        assert torch.equal(both[i : i + 1], resized_parts(photo, rows[i : i + 1], columns[i : i + 1]))
