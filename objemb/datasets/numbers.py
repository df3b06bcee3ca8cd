"""Checks of the numbers in settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from objemb import checks


def whole(name: str, value: int, least: int) -> int:
    """Check that a value is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: expected a whole number from {least}, found {value!r}")
    return value


def counts(name: str, value: Sequence[int]) -> tuple[int, int]:
    """Check that a value is a least and a greatest whole number."""
    low, high = pair(name, value)
    return whole(name, low, 0), whole(name, high, 0)


def pair(name: str, value: Sequence[float], low: float = 0, high: float = float("inf")) -> tuple[Any, Any]:
    """Check that a value is a least and a greatest number in a range."""
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise ValueError(f"{name}: expected the least and the greatest number, found {value!r}")
    for number in value:
        checks.between(name, number, low, high)
    if value[0] > value[1]:
        raise ValueError(f"{name}: expected the least number before the greatest, found {value!r}")
    return value[0], value[1]
