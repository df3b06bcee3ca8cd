"""Arrays as tensors, those that may only be read among them."""

from __future__ import annotations

import gc
import warnings

import numpy as np
import pytest

from objemb.ops.arrays import as_tensor


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
