from __future__ import annotations

from itertools import count

import pytest

from objemb.ops.batches import batched, group_equal


def test_batches_by_hand() -> None:
    assert list(batched("abcde", 2)) == [("a", "b"), ("c", "d"), ("e",)]
    assert list(batched(range(4), 2)) == [(0, 1), (2, 3)]
    assert list(batched(range(3), 5)) == [(0, 1, 2)]
    assert list(batched([], 3)) == []


def test_batches_take_no_more_than_they_give() -> None:
    numbers = count()
    batches = batched(numbers, 3)
    assert next(batches) == (0, 1, 2)
    assert next(numbers) == 3


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="size: expected at least 1, found 0"):
        list(batched("abc", 0))


def test_group_equal_keeps_the_order() -> None:
    assert group_equal(["b", "a", "b", "c", "a"]) == [[0, 2], [1, 4], [3]]
    assert group_equal([]) == []
