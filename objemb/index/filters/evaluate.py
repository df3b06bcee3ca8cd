"""Evaluates a filter on the rows of segments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias
from weakref import WeakKeyDictionary

import numpy as np

from objemb import checks
from objemb.index.filters.columns import METADATA_PREFIX, OWN_FIELDS, Column, SegmentColumns, type_of
from objemb.index.filters.parser import parse
from objemb.index.filters.syntax import Compare, Either, Every, IsNull, Node, Not, OneOf, Value, WhereError, fields
from objemb.index.storage.segment import Segment
from objemb.types import BoolArray

#: Rows for which a filter is true, and rows for which it is false: bool ``(rows,)`` each. For a row in neither of them
#: it is unknown, because a value is missing.
Truth: TypeAlias = tuple[BoolArray, BoolArray]


class FilterEvaluator:
    """Evaluates filters, and caches the columns of a segment for as long as the segment is open."""

    def __init__(self) -> None:
        self._derived: WeakKeyDictionary[Segment, SegmentColumns] = WeakKeyDictionary()

    def columns(self, segments: Sequence[Segment]) -> frozenset[str]:
        """Names of the metadata columns."""
        known = (self._derived.setdefault(s, SegmentColumns()).metadata_keys(s) for s in segments)
        return frozenset().union(*known)

    def select(self, segments: Sequence[Segment], text: str) -> list[BoolArray]:
        """The rows that match a filter.

        Args:
            segments: The segments, including deleted images.
            text: A filter, see :mod:`objemb.index.filters.parser`.

        Returns:
            bool ``(rows,)`` per segment.

        Raises:
            WhereError: The filter is not valid, names an unknown field, or compares values of different types.
        """
        node = parse(text)
        names = fields(node)
        derived = [self._derived.setdefault(s, SegmentColumns()) for s in segments]
        missing = [d.missing(s, names) for s, d in zip(segments, derived, strict=True)]
        if any(s.record.images for s in segments):
            check_fields(names, frozenset().union(*(d.keys for d in derived)))
        for kept, columns in zip(derived, missing, strict=True):
            kept.columns.update(columns)  # only now: unknown names are not worth keeping
        held = {name: frozenset().union(*(d.columns[name].types for d in derived)) for name in names}
        check_value_types(node, held)
        return [evaluate(node, d.columns)[0] for d in derived]


def evaluate(node: Node, columns: Mapping[str, Column]) -> Truth:
    """The rows for which a filter is true, and those for which it is false; ``columns`` must contain all its fields."""
    if isinstance(node, Not):
        true, false = evaluate(node.part, columns)
        return false, true
    if isinstance(node, Every | Either):
        every, some = (np.logical_and, np.logical_or) if isinstance(node, Every) else (np.logical_or, np.logical_and)
        true, false = evaluate(node.parts[0], columns)
        for part in node.parts[1:]:  # one after the other: a filter may have thousands of parts
            more_true, more_false = evaluate(part, columns)
            true, false = every(true, more_true), some(false, more_false)
        return true, false
    column = columns[node.field]
    if isinstance(node, IsNull):
        true, judged = ~column.present, np.ones_like(column.present)
    elif isinstance(node, OneOf):
        true, judged = column.one_of(node.values), column.present
    else:
        true, judged = column.compare(node.operator, node.value), column.of_type(node.value)
    return true[column.codes], (judged & ~true)[column.codes]


def check_fields(names: Iterable[str], known: frozenset[str]) -> None:
    """Raise ``WhereError`` for a field that is neither one of every index nor among the known metadata columns."""
    choices = [*OWN_FIELDS, *sorted(known - set(OWN_FIELDS))]
    for name in sorted(names):
        if name not in choices and name.removeprefix(METADATA_PREFIX) not in known:
            hint = checks.nearest(name, choices)
            more = f" and {len(choices) - 50} more" if len(choices) > 50 else ""
            raise WhereError(f"where: unknown field {name!r}{hint}; known fields: {checks.listed(choices[:50])}{more}")


def check_value_types(node: Node, types: Mapping[str, frozenset[str]]) -> None:
    """Raise ``WhereError`` for comparisons that hold for no row because the field has values of other types only.

    Args:
        node: The filter.
        types: The types of the values of each of its fields, see :func:`objemb.index.filters.columns.type_of`.
    """
    if isinstance(node, Not):
        return check_value_types(node.part, types)
    if isinstance(node, Every | Either):
        for part in node.parts:
            check_value_types(part, types)
        return None
    if isinstance(node, IsNull):
        return None
    held = types[node.field]
    values: tuple[Value, ...] = (node.value,) if isinstance(node, Compare) else node.values
    for value in values:
        wanted = type_of(value)
        if held and wanted not in held:
            quoted = f"; write '{value}' in quotes" if held == {"text"} else ""
            raise WhereError(
                f"where: {node.field}: expected {' or '.join(sorted(held))}, found the {wanted} {value!r}{quoted}"
            )
        if wanted == "boolean" and isinstance(node, Compare) and node.operator not in ("=", "!="):
            raise WhereError(f"where: {node.field}: expected = or != with {value!r}, found {node.operator!r}")
    return None
