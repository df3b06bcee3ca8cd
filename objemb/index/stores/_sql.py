"""Filters as conditions of PostgreSQL, with its meaning of null."""

from __future__ import annotations

import json
from collections.abc import Callable

from objemb.index.filters.columns import METADATA_PREFIX, type_of
from objemb.index.filters.syntax import Either, Every, IsNull, Node, Not, OneOf, Value

#: A number that is above every float, which JSON in the database cannot hold otherwise.
INFINITY = "1e309"


def condition(where: Node | None) -> tuple[str, list[object]]:
    """A filter in normal form as SQL with its values; true where the filter is, and null or false elsewhere."""
    values: list[object] = []

    def put(value: object) -> str:
        values.append(value)
        return "%s"

    def said(node: Node) -> str:
        if isinstance(node, Every | Either):
            word = " AND " if isinstance(node, Every) else " OR "
            return "(" + word.join(said(part) for part in node.parts) + ")"
        negated, leaf = (True, node.part) if isinstance(node, Not) else (False, node)
        assert not isinstance(leaf, Not | Every | Either), "a filter in normal form"
        own = not leaf.field.startswith(METADATA_PREFIX)
        key = leaf.field.removeprefix(METADATA_PREFIX)
        if isinstance(leaf, IsNull):
            if own:
                return f"{leaf.field} IS {'NOT ' * negated}NULL"
            return f"coalesce(jsonb_typeof(metadata -> {put(key)}::text), 'null') {'<>' if negated else '='} 'null'"
        if isinstance(leaf, OneOf):
            if own:
                fitting = [v for v in leaf.values if type_of(v) == ("number" if leaf.field == "score" else "text")]
                among = "(" + (" OR ".join(_own(leaf.field, "=", v, put) for v in fitting) or "false") + ")"
                return f"({leaf.field} IS NOT NULL AND NOT {among})" if negated else among
            # values are put in the order of the text
            there = (
                f"coalesce(jsonb_typeof(metadata -> {put(key)}::text), 'null') <> 'null' AND NOT " if negated else ""
            )
            among = " OR ".join(f"metadata @> {put(_json(key, value))}::jsonb" for value in leaf.values)
            return f"({there}({among}))"
        if own:
            return _own(leaf.field, leaf.operator, leaf.value, put)
        if leaf.operator == "=":
            return f"metadata @> {put(_json(key, leaf.value))}::jsonb"
        kind = {"text": "string"}.get(type_of(leaf.value), type_of(leaf.value))
        of_kind = f"jsonb_typeof(metadata -> {put(key)}::text) = '{kind}'"
        if leaf.operator == "!=":
            return f"({of_kind} AND NOT metadata @> {put(_json(key, leaf.value))}::jsonb)"
        if kind == "number":
            compared = f"(metadata ->> {put(key)}::text)::numeric {leaf.operator} {put(_number(leaf.value))}::numeric"
        else:
            compared = f'(metadata ->> {put(key)}::text) COLLATE "C" {leaf.operator} {put(leaf.value)}'
        return f"CASE WHEN {of_kind} THEN {compared} ELSE false END"

    return ("true", values) if where is None else (said(where), values)


def _own(field: str, operator: str, value: Value, put: Callable[[object], str]) -> str:
    """A comparison of a field that every index has."""
    sign = "<>" if operator == "!=" else operator
    if field == "score":
        if type_of(value) != "number":
            return "false"
        # the shortest decimal of a float32, in which a score is what was written
        return f"score::text::numeric {sign} {put(_number(value))}::numeric"
    return f'{field} COLLATE "C" {sign} {put(value)}' if type_of(value) == "text" else "false"


def _number(value: Value) -> str:
    return repr(value).replace("inf", INFINITY)


def _json(key: str, value: Value) -> str:
    """An object that contains a value, as JSON."""
    text = _number(value) if type_of(value) == "number" else json.dumps(value)
    return f"{{{json.dumps(key)}: {text}}}"
