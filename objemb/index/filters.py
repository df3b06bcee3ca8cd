"""Evaluating ``--where`` on segments: which rows may be found.

Every column is coded: a number per row, and the values that the numbers stand for. Values are sorted once; a comparison
looks up its place among them, and the rest is NumPy.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from objemb import checks
from objemb.index import tables
from objemb.index.segment import Segment
from objemb.index.where import Compare, Either, Every, IsNull, Node, Not, OneOf, Value, WhereError, fields, parse
from objemb.structures import Scalar

#: Fields of every index; other fields are metadata. ``metadata.label`` is the metadata column of such a name.
OWN_FIELDS = ("label", "score", "image")
METADATA_PREFIX = "metadata."
#: Where the keys of a segment's metadata are kept beside its columns; no field has this name.
_KEYS = ""
#: The type of no value.
NOTHING = "nothing"


@dataclass(frozen=True, eq=False)
class Column:
    """A field of a segment.

    Attributes:
        codes: int32 ``(rows,)``, position in ``values``, -1 where the value is missing.
        values: The V values that occur.
    """

    codes: np.ndarray
    values: Sequence[Scalar]

    @cached_property
    def types(self) -> set[str]:
        """Which of ``text``, ``number`` and ``boolean`` occur."""
        return {_type(v) for v in self.values} - {NOTHING}

    @cached_property
    def present(self) -> np.ndarray:
        """Which values are some; the last entry is for code -1: bool ``(V + 1,)``."""
        return np.array([v is not None for v in self.values] + [False])

    @cached_property
    def _orders(self) -> dict[str, tuple[list[Any], np.ndarray]]:
        """The values of each type in order, and the place of every value among them, -1 for those of other types."""
        orders = {}
        for kind in self.types:
            at = [n for n, v in enumerate(self.values) if _type(v) == kind]
            at.sort(key=self.values.__getitem__)  # type: ignore[arg-type]
            places = np.full(len(self.values) + 1, -1)
            places[at] = np.arange(len(at))
            orders[kind] = ([self.values[n] for n in at], places)
        return orders

    def compare(self, comparison: str, literal: Value) -> np.ndarray:
        """Which values compare so with one of their type: bool ``(V + 1,)``."""
        if (kind := _type(literal)) not in self.types:
            return np.zeros(len(self.values) + 1, dtype=bool)
        ordered, places = self._orders[kind]
        low, high = bisect_left(ordered, literal), bisect_right(ordered, literal)
        first, stop = {
            "=": (low, high),
            "!=": (low, high),
            "<": (0, low),
            "<=": (0, high),
            ">": (high, len(ordered)),
            ">=": (low, len(ordered)),
        }[comparison]
        inside = (places >= first) & (places < stop)
        return (places >= 0) & ~inside if comparison == "!=" else inside

    def one_of(self, literals: Iterable[Value]) -> np.ndarray:
        """Which values are among others of their type: bool ``(V + 1,)``."""
        wanted = {kind: np.zeros(len(ordered) + 1, dtype=bool) for kind, (ordered, _) in self._orders.items()}
        for literal in literals:
            if (kind := _type(literal)) in wanted:
                ordered, _ = self._orders[kind]
                wanted[kind][bisect_left(ordered, literal) : bisect_right(ordered, literal)] = True
        # place -1 is the last entry, which is never wanted
        found = [wanted[kind][places] for kind, (_, places) in self._orders.items()]
        return np.logical_or.reduce([np.zeros(len(self.values) + 1, dtype=bool), *found])

    def of_type(self, literal: Value) -> np.ndarray:
        """Which values are of the type of another: bool ``(V + 1,)``."""
        kind = _type(literal)
        return self._orders[kind][1] >= 0 if kind in self.types else np.zeros(len(self.values) + 1, dtype=bool)


#: Rows for which something is true, and rows for which it is false: bool ``(rows,)`` each. A row in neither of them
#: has no value to judge.
Truth: TypeAlias = tuple[np.ndarray, np.ndarray]


def select(segments: Sequence[Segment], text: str) -> list[np.ndarray]:
    """Rows that a filter lets through.

    Args:
        segments: The segments, deleted images included.
        text: A filter, see :mod:`objemb.index.where`.

    Returns:
        bool ``(rows,)`` per segment.

    Raises:
        WhereError: The filter cannot be parsed, names an unknown field, or compares values of different types.
    """
    node = parse(text)
    names = fields(node)
    fresh = [_missing_columns(s, names) for s in segments]
    if any(s.record.images for s in segments):
        known = set().union(*(c.get(_KEYS, s.derived.get(_KEYS, ())) for s, c in zip(segments, fresh, strict=True)))
        _check_fields(names, known)
    for segment, columns in zip(segments, fresh, strict=True):
        segment.derived.update(columns)  # only now: unknown names are not worth keeping
    _check_types(node, segments)
    return [_evaluate(node, s.derived)[0] for s in segments]


def _evaluate(node: Node, columns: dict[str, Column]) -> Truth:
    if isinstance(node, Not):
        true, false = _evaluate(node.part, columns)
        return false, true
    if isinstance(node, Every | Either):
        every, some = (np.logical_and, np.logical_or) if isinstance(node, Every) else (np.logical_or, np.logical_and)
        true, false = _evaluate(node.parts[0], columns)
        for part in node.parts[1:]:  # one after the other: a filter may have thousands of parts
            more_true, more_false = _evaluate(part, columns)
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


def _missing_columns(segment: Segment, names: Iterable[str]) -> dict[str, Any]:
    """Columns that the segment does not hold yet."""
    missing = [n for n in names if n not in segment.derived]
    found: dict[str, Any] = {n: _own_column(segment, n) for n in missing if n in OWN_FIELDS}
    asked = [n for n in missing if n not in OWN_FIELDS]
    return {**found, **_metadata_columns(segment, asked)} if asked else found


def _own_column(segment: Segment, name: str) -> Column:
    if name == "label":
        return Column(segment.label_codes, segment.label_names)
    if name == "score":
        values, codes = np.unique(segment.scores, return_inverse=True)
        # the shortest decimal of a float32: a score that was 0.9 equals 0.9
        return Column(codes, [float(str(v)) for v in values])
    ids = [tables.to_text(i) for i in segment.image_ids()]
    return Column(segment.per_row(np.arange(len(ids))), ids)


def _metadata_columns(segment: Segment, names: Sequence[str]) -> dict[str, Any]:
    """Columns of metadata, and all keys that occur under ``_KEYS``."""
    texts = segment.images.column("metadata").dictionary_encode()
    objects = [tables.metadata_from_bytes(text) for text in texts.dictionary.to_pylist()]
    of_image = texts.indices.to_numpy(zero_copy_only=True)
    found: dict[str, Any] = {_KEYS: set().union(*objects)}
    for name in names:
        codes, values = _coded([_looked_up(o, name) for o in objects])
        found[name] = Column(segment.per_row(codes[of_image]), values)
    return found


def _looked_up(metadata: dict[str, Scalar], name: str) -> Scalar:
    key = name if name in metadata else name.removeprefix(METADATA_PREFIX)
    value = metadata.get(key)
    return None if value != value else value  # NaN is how tables write a missing number


def _coded(values: Sequence[Scalar]) -> tuple[np.ndarray, list[Scalar]]:
    """Codes per value and the distinct values; 1, 1.0 and True are three."""
    places: dict[tuple[type, Scalar], int] = {}
    codes = np.array([places.setdefault((type(v), v), len(places)) for v in values], dtype=np.int32)
    return codes, [value for _, value in places]


def _type(value: Scalar) -> str:
    if value is None:
        return NOTHING
    return "text" if isinstance(value, str) else "boolean" if isinstance(value, bool) else "number"


def _check_fields(names: Iterable[str], known: set[str]) -> None:
    choices = [*OWN_FIELDS, *sorted(known - set(OWN_FIELDS))]
    for name in sorted(names):
        if name not in choices and name.removeprefix(METADATA_PREFIX) not in known:
            hint = checks.nearest(name, choices)
            more = f" and {len(choices) - 50} more" if len(choices) > 50 else ""
            raise WhereError(f"where: unknown field {name!r}{hint}; known fields: {checks.listed(choices[:50])}{more}")


def _check_types(node: Node, segments: Sequence[Segment]) -> None:
    """Refuse comparisons that cannot hold for any row because the field has values of other types only."""
    if isinstance(node, Not):
        return _check_types(node.part, segments)
    if isinstance(node, Every | Either):
        for part in node.parts:
            _check_types(part, segments)
        return None
    if isinstance(node, IsNull):
        return None
    held = set().union(*(s.derived[node.field].types for s in segments))
    values: tuple[Value, ...] = (node.value,) if isinstance(node, Compare) else node.values
    for value in values:
        wanted = _type(value)
        if held and wanted not in held:
            quoted = f"; write '{value}' in quotes" if held == {"text"} else ""
            raise WhereError(
                f"where: {node.field}: expected {' or '.join(sorted(held))}, found the {wanted} {value!r}{quoted}"
            )
        if wanted == "boolean" and isinstance(node, Compare) and node.operator not in ("=", "!="):
            raise WhereError(f"where: {node.field}: expected = or != with {value!r}, found {node.operator!r}")
    return None
