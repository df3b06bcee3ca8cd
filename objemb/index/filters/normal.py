"""Filters in a normal form, which other engines can evaluate in two-valued logic.

:func:`normal` moves every ``not`` to the leaves, which preserves the three truth values (De Morgan's laws hold in
Kleene's logic): what is left are ``Every`` and ``Either`` over leaves. Each leaf says for which rows it is *true*, and
rows for which it is unknown need not be told from those for which it is false any more:

==================  ==================================================================================
``Compare``         true where the value is of the literal's type and the comparison holds
``OneOf``           true where the value equals one of the literals
``Not(OneOf)``      true where there is a value, and it equals none of them
``IsNull``          true where there is no value
``Not(IsNull)``     true where there is one
==================  ==================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from objemb.index.filters.syntax import Compare, Either, Every, Node, Not

#: What a comparison becomes under ``not``: both are unknown where the value is missing or of another type.
_OPPOSITE = {"=": "!=", "!=": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}


def normal(node: Node) -> Node:
    """A filter that is true for the same rows, with ``Not`` only of ``OneOf`` and ``IsNull``."""
    return _normal(node, negated=False)


def _normal(node: Node, *, negated: bool) -> Node:
    if isinstance(node, Not):
        return _normal(node.part, negated=not negated)
    if isinstance(node, Every | Either):
        kind = Every if isinstance(node, Every) is not negated else Either
        return kind(tuple(_normal(part, negated=negated) for part in node.parts))
    if not negated:
        return node
    return replace(node, operator=_OPPOSITE[node.operator]) if isinstance(node, Compare) else Not(node)


def weakened(node: Node, says: Callable[[Node], bool]) -> Node | None:
    """A filter that an engine can evaluate, and that is true wherever ``node`` is; None for one that is always true.

    Args:
        node: A filter from :func:`normal`.
        says: Whether the engine can evaluate a leaf.
    """
    if isinstance(node, Every):
        kept = [part for part in (weakened(one, says) for one in node.parts) if part is not None]
        return None if not kept else kept[0] if len(kept) == 1 else Every(tuple(kept))
    if isinstance(node, Either):
        parts = [weakened(one, says) for one in node.parts]
        every = tuple(part for part in parts if part is not None)
        return Either(every) if len(every) == len(parts) else None
    return node if says(node) else None
