"""Evaluating ``--where`` on segments: which rows may be found.

Every column is coded: a number per row, and the values that the numbers stand for. A comparison looks at each value
once, and the rest is NumPy.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
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
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A field of a segment.

    Attributes:
        codes: int32 ``(rows,)``, position in ``values``, -1 where the value is missing.
        values: The values that occur.
    """

    codes: np.ndarray
    values: Sequence[Scalar]

    @property
    def types(self) -> set[str]:
        """Which of ``text``, ``number`` and ``boolean`` occur."""
        return {_type(v) for v in self.values if v is not None}

    def where(self, holds: Callable[[Scalar], bool | None]) -> Truth:
        """Rows for which a condition on the value is true, and for which it is false."""
        answers = [holds(v) for v in self.values]
        true = np.array([a is True for a in answers] + [False])  # the last one is for code -1
        false = np.array([a is False for a in answers] + [False])
        return true[self.codes], false[self.codes]


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
        truths = [_evaluate(p, columns) for p in node.parts]
        every, some = (np.logical_and, np.logical_or) if isinstance(node, Every) else (np.logical_or, np.logical_and)
        return every.reduce([t for t, _ in truths]), some.reduce([f for _, f in truths])
    column = columns[node.field]
    if isinstance(node, IsNull):
        missing = column.where(lambda value: value is None)[0] | (column.codes < 0)
        return missing, ~missing
    if isinstance(node, OneOf):
        wanted = set(map(_typed, node.values))
        return column.where(lambda value: None if value is None else _typed(value) in wanted)
    compare, literal = _OPERATORS[node.operator], node.value
    return column.where(lambda value: compare(value, literal) if _type(value) == _type(literal) else None)


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
        return "nothing"
    return "text" if isinstance(value, str) else "boolean" if isinstance(value, bool) else "number"


def _typed(value: Scalar) -> tuple[str, Scalar]:
    return _type(value), value


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
