from __future__ import annotations

import pytest
import torch

from objemb.ops.images import as_batch, input_size, nearest_multiple, resize
from tests.tiny import random_photo


@pytest.mark.parametrize(
    ("size", "arguments", "expected"),
    [
        ((600, 800), {"target": 400}, (300, 400)),
        ((800, 600), {"target": 400}, (400, 300)),
        ((600, 800), {"target": 300, "side": "shortest"}, (300, 400)),
        ((600, 800), {"target": 1600}, (1200, 1600)),  # small photos grow
        ((601, 800), {"target": 400}, (301, 400)),  # 300.5: halves go up
        ((600, 800), {"target": 518, "multiple": 14}, (392, 518)),  # 388.5 is nearer to 28 x 14 than to 27 x 14
        ((1, 2000), {"target": 800}, (1, 800)),
        ((1, 2000), {"target": 800, "smallest": 32}, (32, 800)),
        ((1, 2000), {"target": 798, "multiple": 14, "smallest": 32}, (42, 798)),
        ((7, 7), {"target": 3, "multiple": 8}, (8, 8)),
    ],
)
def test_resize_rule(size: tuple[int, int], arguments: dict, expected: tuple[int, int]) -> None:
    assert input_size(size, **arguments) == expected


def test_resize_rule_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="side: expected one of 'longest', 'shortest', found 'longst'"):
        input_size((3, 3), 5, "longst")
    with pytest.raises(ValueError, match="target: expected a number above 0, found 0"):
        input_size((3, 3), 0)


def test_nearest_multiple() -> None:
    assert [nearest_multiple(v) for v in (0.2, 0.5, 1.49, 2.5)] == [1, 1, 1, 3]
    assert nearest_multiple(21, 14) == 28
    assert nearest_multiple(0, 14, smallest=15) == 28


def triangle(length: int, count: int) -> torch.Tensor:
    """Weights ``(count, length)`` of the antialiased bilinear filter along one side."""
    step = length / count
    middles = step * (torch.arange(count, dtype=torch.float64) + 0.5)
    pixels = torch.arange(length, dtype=torch.float64) + 0.5
    weights = (1 - (pixels - middles[:, None]).abs() / max(step, 1)).clamp(min=0)
    return weights / weights.sum(dim=1, keepdim=True)


@pytest.mark.parametrize("size", [(20, 33), (90, 120), (1, 1), (7, 1), (1, 7), (50, 7)])
@pytest.mark.parametrize("source", [(50, 70), (1, 1), (1, 300), (300, 1), (3, 3)])
def test_resize_of_bytes_is_that_of_floats_up_to_a_grey_level(source: tuple[int, int], size: tuple[int, int]) -> None:
    pixels = torch.randint(0, 256, (3, *source), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    slow = triangle(source[0], size[0]) @ pixels.double() @ triangle(source[1], size[1]).T
    fast = resize(pixels, size)
    assert fast.dtype == torch.uint8
    assert fast.shape == (3, *size)
    assert fast.is_contiguous()
    assert (fast.double() - slow).abs().max() <= 1.01


def test_resize_shrinks_without_aliasing() -> None:
    stripes = torch.tensor([0, 255], dtype=torch.uint8).repeat(32).expand(3, 64, 64)
    small = resize(stripes, (8, 8)).float()
    assert (small - 127.5).abs().max() < 6  # without the filter: 0 or 255


def test_resize_to_the_same_size_changes_nothing() -> None:
    pixels = torch.as_tensor(random_photo(5, 6).pixels)
    assert torch.equal(resize(pixels, (5, 6)), pixels)


def test_resize_does_not_depend_on_memory_layout() -> None:
    pixels = torch.as_tensor(random_photo(40, 60).pixels)
    interleaved = pixels.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert torch.equal(resize(pixels, (17, 23)), resize(interleaved, (17, 23)))


def test_batch_is_rgb_from_0_to_1() -> None:
    red = torch.zeros(3, 2, 4, dtype=torch.uint8)
    red[0] = 255
    batch = as_batch([red, torch.zeros_like(red)], "cpu")
    assert batch.shape == (2, 3, 2, 4)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert batch[0, 0].min() == 1
    assert batch[0, 1:].max() == 0
    assert batch[1].max() == 0
