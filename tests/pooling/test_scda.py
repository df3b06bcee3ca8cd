from __future__ import annotations

import pytest
import torch
from torch import Tensor

from objemb.ops.tensors import l2
from objemb.pooling.scda import Scda, main_object

pytest.importorskip("scipy")


def busy(*rows: str) -> Tensor:
    """A map of two channels: digits, and ones."""
    digits = torch.tensor([[float(c) for c in row] for row in rows])
    return torch.stack([digits, torch.ones_like(digits)])[None]


def test_the_largest_connected_part_above_the_mean() -> None:
    maps = busy("9001", "0044", "0040")  # the mean is 22 / 12
    assert main_object(maps, None)[0].int().tolist() == [[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 0]]


def test_parts_that_touch_at_a_corner_are_one_object() -> None:
    maps = busy("900500", "090550", "000000")  # the mean is 33 / 18
    assert main_object(maps, None)[0].int().tolist() == [[0, 0, 0, 1, 0, 0], [0, 0, 0, 1, 1, 0], [0] * 6]
    maps = busy("900050", "090050", "009000")
    assert main_object(maps, None)[0].int().tolist() == [[1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]]


def test_mean_and_maximum_at_unit_length_by_hand() -> None:
    maps = busy("3400", "0000")
    mean, largest = torch.tensor([[3.5, 1.0]]), torch.tensor([[4.0, 1.0]])
    assert torch.allclose(Scda()(maps), torch.cat([l2(mean), l2(largest)], dim=1))


def test_weights_bound_the_region_and_scale_the_mean() -> None:
    maps = busy("9344", "9000")
    weights = torch.tensor([[[0.0, 1.0, 0.5, 0.5], [0.0, 1.0, 1.0, 1.0]]])
    assert main_object(maps, weights)[0].int().tolist() == [[0, 1, 1, 1], [0, 0, 0, 0]]
    mean, largest = torch.tensor([[(3 + 2 + 2) / 2, 1.0]]), torch.tensor([[4.0, 1.0]])
    assert torch.allclose(Scda()(maps, weights), torch.cat([l2(mean), l2(largest)], dim=1))
    assert not Scda()(maps, weights * 0).any()


@pytest.mark.parametrize("value", [0.0, 2.0, 1 / 3])
def test_a_map_that_is_the_same_everywhere_is_all_object(value: float) -> None:
    assert main_object(torch.full((1, 3, 5, 7), value), None).all()
    assert main_object(torch.full((1, 3, 1, 1), value), None).all()


def test_rectangles_of_many_shapes() -> None:
    maps = torch.randn(3, 4, 7, 6, generator=torch.Generator().manual_seed(0)).relu()
    cells = torch.tensor([[n, x, y, 6 - n, 7 - y] for n in (2, 0, 1) for x in range(4) for y in range(3)])
    slow = torch.cat([Scda()(maps[n : n + 1, :, y1:y2, x1:x2]) for n, x1, y1, x2, y2 in cells.tolist()])
    assert slow.shape == (len(cells), 8)
    assert torch.allclose(Scda().rectangles(maps, cells), slow, atol=1e-5)
