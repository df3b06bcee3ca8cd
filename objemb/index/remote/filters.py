"""Filters of an index at an address: what the store evaluates, and what is evaluated here, on rows that were read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa

from objemb.index.filters.columns import METADATA_PREFIX, OWN_FIELDS, Column, coded, looked_up
from objemb.index.filters.evaluate import check_fields, check_value_types, evaluate
from objemb.index.filters.normal import normal, weakened
from objemb.index.filters.parser import parse
from objemb.index.filters.syntax import Either, Every, Node, Not, fields
from objemb.index.remote.rows import metadata_of, numbers
from objemb.types import BoolArray

#: Types of the fields of every index.
_OWN_TYPES = {"label": frozenset({"text"}), "score": frozenset({"number"}), "image": frozenset({"text"})}
#: Types of the values of columns by name.
FieldTypes = Mapping[str, frozenset[str]]


class RowFilter:
    """A filter, in the form that a store is given and as it is evaluated on rows.

    Args:
        text: The filter.
        types: The metadata columns with the types of their values.
        says: Whether the store evaluates a leaf.

    Attributes:
        asked: What the store is given: a filter in normal form that is true for all wanted rows, and for further ones
            if the store cannot say everything; None if it can say nothing.
        exact: Whether ``asked`` is true for the wanted rows only.

    Raises:
        WhereError: The filter is not valid, names an unknown field, or compares values of different types.
    """

    def __init__(self, text: str, types: FieldTypes, says: Callable[[Node], bool]) -> None:
        self._node = parse(text)
        names = fields(self._node)
        check_fields(names, frozenset(types))
        looked_at = {name: _OWN_TYPES.get(name) or types.get(_key(name, types), frozenset()) for name in names}
        check_value_types(self._node, looked_at)
        wanted = normal(_with_keys(self._node, types))
        # a column named metadata.x beside one named x: which is meant depends on the row
        clear = {n for n in names if n in OWN_FIELDS or not (n in types and n.removeprefix(METADATA_PREFIX) in types)}
        clear |= {n for n in names if not n.startswith(METADATA_PREFIX)}
        unclear = {_key(name, types) for name in names - clear}

        def said(leaf: Node) -> bool:
            return not (fields(leaf) & unclear) and says(leaf)

        self.asked = weakened(wanted, said)
        self.exact = self.asked == wanted

    def fits(self, rows: pa.Table) -> BoolArray:
        """For which rows the filter is true: bool ``(n,)``."""
        columns = {name: _column(rows, name) for name in fields(self._node)}
        return evaluate(self._node, columns)[0]


def _key(name: str, types: FieldTypes) -> str:
    """The metadata column that a name of a filter means."""
    return name if name in types else name.removeprefix(METADATA_PREFIX)


def _with_keys(node: Node, types: FieldTypes) -> Node:
    """The filter with metadata columns under the names ``metadata.KEY``, and the fields of every index as they are."""
    if isinstance(node, Not):
        return Not(_with_keys(node.part, types))
    if isinstance(node, Every | Either):
        return type(node)(tuple(_with_keys(part, types) for part in node.parts))
    return node if node.field in OWN_FIELDS else replace(node, field=METADATA_PREFIX + _key(node.field, types))


def _column(rows: pa.Table, name: str) -> Column:
    if name == "score":
        values, codes = np.unique(numbers(rows, "score"), return_inverse=True)
        # the shortest decimal of a float32, as in an index of a folder
        return Column(codes, [float(str(v)) for v in values])
    texts = rows[name if name in OWN_FIELDS else "metadata"].combine_chunks().dictionary_encode()
    of_rows, distinct = texts.indices.fill_null(-1).to_numpy(zero_copy_only=False), texts.dictionary.to_pylist()
    if name in OWN_FIELDS:
        return Column(of_rows, distinct)
    of_text, found = coded([looked_up(metadata_of(text), name) for text in distinct])
    return Column(of_text[of_rows] if len(of_rows) else of_rows, found)
