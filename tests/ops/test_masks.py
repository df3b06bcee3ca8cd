from __future__ import annotations

import numpy as np
import pytest
import torch

from objemb.ops.masks import box_of, coverage


def test_by_hand() -> None:
    mask = torch.tensor([[[1, 0], [1, 1]]], dtype=torch.uint8)
    box = torch.tensor([[1.0, 0.0, 3.0, 2.0]])  # one mask pixel per cell
    assert coverage(mask, box, (2, 4)).tolist() == [[[0, 1, 0, 0], [0, 1, 1, 0]]]
    shifted = torch.tensor([[0.5, 0.0, 2.5, 2.0]])
    assert coverage(mask, shifted, (2, 3)).tolist() == [[[0.5, 0.5, 0], [0.5, 1, 0.5]]]


def test_against_painting_on_a_fine_raster() -> None:
    generator = torch.Generator().manual_seed(1)
    masks = (torch.rand(6, 5, 7, generator=generator) > 0.5).byte()
    low = torch.rand(6, 2, generator=generator) * 4
    boxes = torch.cat([low, low + torch.rand(6, 2, generator=generator) * 6], dim=1)
    fine = 200
    y, x = ((torch.arange(8 * fine) + 0.5) / fine,) * 2
    for mask, box, share in zip(masks, boxes, coverage(masks, boxes, (8, 8)), strict=True):
        row = ((y - box[1]) / (box[3] - box[1]) * 5).floor().long()
        column = ((x - box[0]) / (box[2] - box[0]) * 7).floor().long()
        inside = ((row >= 0) & (row < 5))[:, None] & ((column >= 0) & (column < 7))[None]
        painted = mask[row.clamp(0, 4)][:, column.clamp(0, 6)].float() * inside
        slow = painted.reshape(8, fine, 8, fine).mean(dim=(1, 3))
        assert (slow - share).abs().max() < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_arrays_and_of_tensors(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    masks = (torch.rand(9, 28, 28, generator=generator) > 0.5).byte()
    boxes = torch.rand(9, 4, generator=generator, dtype=dtype) * 12 - torch.tensor([4, 4, 0, 0])
    of_tensors = coverage(masks, boxes, (7, 5))
    of_arrays = coverage(masks.numpy(), boxes.numpy(), (7, 5))
    assert isinstance(of_arrays, np.ndarray)
    assert (of_tensors.dtype, of_arrays.dtype) == (dtype, boxes.numpy().dtype)
    np.testing.assert_allclose(of_arrays, of_tensors, atol=1e-5)
    assert 0 < of_arrays.max() <= 1


def test_empty_boxes_and_no_boxes() -> None:
    assert coverage(torch.ones(1, 2, 2), torch.tensor([[1.0, 1.0, 1.0, 3.0]]), (4, 4)).sum() == 0
    assert coverage(torch.ones(0, 2, 2), torch.zeros(0, 4), (4, 4)).shape == (0, 4, 4)


def test_a_box_is_tight() -> None:
    mask = np.zeros((8, 9), dtype=bool)
    assert box_of(mask) == (0, 0, 0, 0)
    mask[2, 3] = mask[5, 6] = True
    assert box_of(mask) == (3, 2, 7, 6)
