"""Metadata as columns of one type each, for stores that compare values of one type only."""

from __future__ import annotations

import math
import re

from objemb.index.filters.columns import type_of
from objemb.index.filters.syntax import Compare, Node, Not, OneOf, fields

#: Types of values, as they begin the names of columns; ``null`` marks a metadata column of nulls only.
KINDS = ("text", "number", "boolean", "null")
#: From here on, float64 does not hold every integer.
EXACT_INTEGERS = 2**53


def column_of(kind: str, key: str) -> str:
    """The column of the values of one type of a metadata column: ``number_price``; in hexadecimal digits, after
    ``number_x_``, for a key with other characters than lower-case letters, digits and _."""
    plain = re.fullmatch(r"[a-z0-9_]+", key) and not key.startswith("x_")
    return f"{kind}_{key}" if plain else f"{kind}_x_{key.encode().hex()}"


def field_of(column: str) -> tuple[str, str] | None:
    """Type and metadata column of a column; None for another one."""
    kind, _, name = column.partition("_")
    if kind not in KINDS or not name:
        return None
    return kind, bytes.fromhex(name[2:]).decode() if name.startswith("x_") else name


def value_of(value: object, kind: str) -> str | float | bool | None:
    """A value as it stands in the column of a type: None if it is of another one or missing, numbers as floats."""
    if value is None or value != value or type_of(value) != kind:  # type: ignore[arg-type]
        return None
    if kind != "number":
        return value  # type: ignore[return-value]
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:  # an integer of more than 308 digits
        return math.inf if value > 0 else -math.inf  # type: ignore[operator]


def in_columns(leaf: Node) -> bool:
    """Whether a leaf of a filter can be evaluated on such columns: not on detector scores, whose decimals are those of
    float32, nor with numbers that float64 cannot hold."""
    inner = leaf.part if isinstance(leaf, Not) else leaf
    if "score" in fields(leaf):
        return False
    values = (inner.value,) if isinstance(inner, Compare) else inner.values if isinstance(inner, OneOf) else ()
    return all(type_of(v) != "number" or abs(v) < EXACT_INTEGERS for v in values)  # type: ignore[arg-type]
