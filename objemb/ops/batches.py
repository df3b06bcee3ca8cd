"""Splitting a sequence into batches: of one size, or of equal keys."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def batched(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """The items in order, ``size`` at a time, the last batch perhaps shorter: Python 3.12's ``itertools.batched``.

    Raises:
        ValueError: ``size`` is below 1.
    """
    if size < 1:
        raise ValueError(f"size: expected at least 1, found {size}")
    remaining = iter(items)
    while batch := tuple(islice(remaining, size)):
        yield batch


def group_equal(keys: Iterable[Hashable]) -> list[list[int]]:
    """Positions of equal keys, one list per key, in order of first appearance."""
    groups: dict[Hashable, list[int]] = {}
    for position, key in enumerate(keys):
        groups.setdefault(key, []).append(position)
    return list(groups.values())
