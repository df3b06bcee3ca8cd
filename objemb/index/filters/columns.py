"""Dictionary-encoded columns of a segment, on which filters are evaluated.

Values are sorted once; a comparison is a binary search among them, followed by NumPy operations on the codes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from objemb.index.filters.syntax import Value
from objemb.index.storage import tables
from objemb.index.storage.segment import Segment
from objemb.structures import Scalar
from objemb.types import BoolArray, Int32Array, Int64Array

#: Fields of every index; other fields are metadata. ``metadata.label`` is the metadata column named ``label``.
OWN_FIELDS = ("label", "score", "image")
METADATA_PREFIX = "metadata."
#: The type of a missing value.
NOTHING = "nothing"


@dataclass(frozen=True, eq=False)
class Column:
    """A field of a segment.

    Attributes:
        codes: int32 or int64 ``(rows,)``, position in ``values``, or -1 for a missing value.
        values: The V distinct values.
    """

    codes: Int32Array | Int64Array
    values: Sequence[Scalar]

    @cached_property
    def types(self) -> set[str]:
        """The types that occur, of ``text``, ``number`` and ``boolean``."""
        return {type_of(v) for v in self.values} - {NOTHING}

    @cached_property
    def present(self) -> BoolArray:
        """Whether each value is present, bool ``(V + 1,)``; the last entry is for code -1."""
        return np.array([v is not None for v in self.values] + [False])

    @cached_property
    def _orders(self) -> dict[str, tuple[list[Any], Int64Array]]:
        """The sorted values of each type, and the position of every value among them, -1 for other types."""
        orders = {}
        for kind in self.types:
            at = [n for n, v in enumerate(self.values) if type_of(v) == kind]
            at.sort(key=self.values.__getitem__)  # type: ignore[arg-type]  # those of one type have an order
            places = np.full(len(self.values) + 1, -1)
            places[at] = np.arange(len(at))
            orders[kind] = ([self.values[n] for n in at], places)
        return orders

    def compare(self, comparison: str, literal: Value) -> BoolArray:
        """Whether the comparison with a literal of the same type holds for each value: bool ``(V + 1,)``."""
        if (kind := type_of(literal)) not in self.types:
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

    def one_of(self, literals: Iterable[Value]) -> BoolArray:
        """Whether each value is among literals of the same type: bool ``(V + 1,)``."""
        wanted = {kind: np.zeros(len(ordered) + 1, dtype=bool) for kind, (ordered, _) in self._orders.items()}
        for literal in literals:
            if (kind := type_of(literal)) in wanted:
                ordered, _ = self._orders[kind]
                wanted[kind][bisect_left(ordered, literal) : bisect_right(ordered, literal)] = True
        # place -1 is the last entry, which is never wanted
        matching = [wanted[kind][places] for kind, (_, places) in self._orders.items()]
        among: BoolArray = np.logical_or.reduce([np.zeros(len(self.values) + 1, dtype=bool), *matching])
        return among

    def of_type(self, literal: Value) -> BoolArray:
        """Whether each value is of the literal's type: bool ``(V + 1,)``."""
        kind = type_of(literal)
        return self._orders[kind][1] >= 0 if kind in self.types else np.zeros(len(self.values) + 1, dtype=bool)


class SegmentColumns:
    """The columns of a segment that filters have used; they do not keep the segment open.

    Attributes:
        columns: Columns by field.
        keys: Keys of the metadata that occur; empty until a metadata column is read.
    """

    def __init__(self) -> None:
        self.columns: dict[str, Column] = {}
        self.keys: frozenset[str] = frozenset()

    def missing(self, segment: Segment, fields: Iterable[str]) -> dict[str, Column]:
        """Read the columns of those fields that have not been read yet; sets ``keys`` if metadata are read."""
        names = [n for n in fields if n not in self.columns]
        columns = {n: _own_column(segment, n) for n in names if n in OWN_FIELDS}
        asked = [n for n in names if n not in OWN_FIELDS]
        return {**columns, **self._metadata_columns(segment, asked)} if asked else columns

    def metadata_keys(self, segment: Segment) -> frozenset[str]:
        """Keys of the metadata of a segment; sets ``keys``."""
        if not self.keys:
            self._metadata(segment)
        return self.keys

    def _metadata(self, segment: Segment) -> tuple[list[dict[str, Scalar]], Int32Array]:
        """The distinct metadata, and the position among them of those of each image; sets ``keys``."""
        texts = segment.images.column("metadata").dictionary_encode()
        objects = [tables.metadata_from_bytes(text) for text in texts.dictionary.to_pylist()]
        self.keys = frozenset().union(*objects)
        return objects, texts.indices.to_numpy(zero_copy_only=True)

    def _metadata_columns(self, segment: Segment, names: Sequence[str]) -> dict[str, Column]:
        objects, of_image = self._metadata(segment)
        columns = {}
        for name in names:
            codes, values = coded([looked_up(o, name) for o in objects])
            columns[name] = Column(segment.per_row(codes[of_image]), values)
        return columns


def _own_column(segment: Segment, name: str) -> Column:
    if name == "label":
        return Column(segment.label_codes, segment.label_names)
    if name == "score":
        values, codes = np.unique(segment.scores, return_inverse=True)
        # the shortest decimal of a float32: a score that was 0.9 equals 0.9
        return Column(codes, [float(str(v)) for v in values])
    ids = [tables.to_text(i) for i in segment.image_ids()]
    return Column(segment.per_row(np.arange(len(ids), dtype=np.int64)), ids)


def looked_up(metadata: Mapping[str, Scalar], name: str) -> Scalar:
    """The value of a field in the metadata of an image; None if it is missing."""
    key = name if name in metadata else name.removeprefix(METADATA_PREFIX)
    value = metadata.get(key)
    return None if value != value else value  # NaN is how tables write a missing number


def coded(values: Sequence[Scalar]) -> tuple[Int32Array, list[Scalar]]:
    """Codes per value and the distinct values; 1, 1.0 and True are distinct."""
    places: dict[tuple[type, Scalar], int] = {}
    codes = np.array([places.setdefault((type(v), v), len(places)) for v in values], dtype=np.int32)
    return codes, [value for _, value in places]


def type_of(value: Scalar) -> str:
    """``text``, ``number`` or ``boolean``; :data:`NOTHING` for None."""
    if value is None:
        return NOTHING
    return "text" if isinstance(value, str) else "boolean" if isinstance(value, bool) else "number"
