"""Tensors of arrays, unit length, and known shapes."""

from __future__ import annotations

import gc
import warnings

import numpy as np
import pytest
import torch

from objemb.ops.tensors import as_tensor, l2, padded_rows, rows_where


@pytest.mark.parametrize("dtype", [np.float32, np.bool_, np.int64])
def test_a_read_only_array_becomes_a_tensor_without_a_copy_or_a_warning(dtype: type) -> None:
    array = np.arange(12).astype(dtype).reshape(3, 4)
    for given in (array, array[1:2], array[:0]):
        given.flags.writeable = False
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tensor = as_tensor(given)
        assert tensor.numpy().tolist() == given.tolist()
        assert not given.size or tensor.data_ptr() == given.ctypes.data
        assert not given.flags.writeable


def test_a_tensor_keeps_its_array_alive() -> None:
    array = np.full(1 << 16, 7.0, np.float32)
    array.flags.writeable = False
    tensor = as_tensor(array)
    del array
    gc.collect()
    np.zeros(1 << 16, np.float32)
    assert bool((tensor == 7).all())


def test_unit_length_and_zeros() -> None:
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0], [-2.0, 0.0]])
    assert torch.allclose(l2(vectors), torch.tensor([[0.6, 0.8], [0.0, 0.0], [-1.0, 0.0]]))


def test_huge_and_tiny_rows() -> None:
    vectors = torch.tensor([[3e30, 4e30], [3e-30, 4e-30], [1e-44, 0.0]])
    assert torch.allclose(l2(vectors), torch.tensor([[0.6, 0.8], [0.6, 0.8], [1.0, 0.0]]))


def test_empties() -> None:
    assert l2(torch.zeros(0, 5)).shape == (0, 5)
    assert l2(torch.zeros(5, 0)).shape == (5, 0)


def test_rows_where() -> None:
    assert rows_where(torch.tensor([True, False, True])).tolist() == [0, 2]
    assert rows_where(torch.tensor([False])).tolist() == []
    assert rows_where(torch.zeros(0, dtype=torch.bool)).tolist() == []


def test_padded_rows() -> None:
    rows = torch.tensor([[1.0, 2], [3, 4]])
    assert padded_rows(rows, 3, -1).tolist() == [[1, 2], [3, 4], [-1, -1]]
    assert padded_rows(rows, 1).tolist() == [[1, 2]]
    assert padded_rows(rows[:0], 2).tolist() == [[0, 0], [0, 0]]
    assert padded_rows(rows, 0).shape == (0, 2)
