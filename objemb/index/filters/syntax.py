"""The syntax tree of a filter: the output of :func:`objemb.index.filters.parser.parse`, which engines translate.

A filter is one :data:`Node`; there are six kinds, all frozen dataclasses::

    Node    = Compare(field, operator, value)   field < value
            | OneOf(field, values)              field in (value, ...)
            | IsNull(field)                     field is null
            | Not(part)                         not part
            | Every(parts)                      part and part ...
            | Either(parts)                     part or part ...
    Value   = str | int | float | bool

``field`` is the name as it was written: ``label``, ``score`` and ``image`` belong to regions and images, every other
name is a key of the metadata, which may also be written ``metadata.name``. ``parts`` and ``values`` are never empty,
and the tree is at most :data:`objemb.index.filters.parser.MAX_DEPTH` levels of parentheses and ``not`` deep.

Semantics, which a translation for another engine must preserve:

* Every node is true, false or unknown for a row. ``Compare`` and ``OneOf`` are unknown where the field is missing, null
  or NaN. Values are texts, numbers or booleans, and those of different types are never equal (``1`` and ``1.0`` are):
  ``Compare`` is unknown for a value of another type than the literal, ``OneOf`` is false for it.
* ``IsNull`` is true or false.
* ``Not`` of unknown is unknown; ``Every`` is false where a part is false, else unknown where one is unknown; ``Either``
  is true where a part is true, else unknown where one is unknown.
* A filter lets a row through where it is true.
* Order is that of numbers, or of texts by code points; booleans have ``=`` and ``!=`` only.

A translation is one ``match`` statement over the six classes; :mod:`objemb.index.filters.evaluate` is the reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

Value: TypeAlias = str | int | float | bool


class WhereError(ValueError):
    """A filter is not valid, or does not fit the data."""


@dataclass(frozen=True)
class Compare:
    """``field operator value``; the operator is one of ``= != < <= > >=``."""

    field: str
    operator: str
    value: Value


@dataclass(frozen=True)
class OneOf:
    """``field in (values)``."""

    field: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class IsNull:
    """``field is null``."""

    field: str


@dataclass(frozen=True)
class Not:
    """``not part``."""

    part: Node


@dataclass(frozen=True)
class Every:
    """``part and part and ...``."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Either:
    """``part or part or ...``."""

    parts: tuple[Node, ...]


Node: TypeAlias = Compare | OneOf | IsNull | Not | Every | Either


def fields(node: Node) -> set[str]:
    """Names of all fields of a filter."""
    if isinstance(node, Not):
        return fields(node.part)
    if isinstance(node, Every | Either):
        return set().union(*(fields(p) for p in node.parts))
    return {node.field}
