"""The language of filters: what parses to what, and where the message points when it does not."""

from __future__ import annotations

import pytest

from objemb.index.filters.parser import parse
from objemb.index.filters.syntax import Compare, Either, Every, IsNull, Not, OneOf, WhereError, fields

A, B, C = (Compare(name, "=", 1) for name in "abc")


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("label=bottle", Compare("label", "=", "bottle")),
        ("label == 'two words'", Compare("label", "=", "two words")),
        ("x='it''s'", Compare("x", "=", "it's")),
        ('x="say ""a"""', Compare("x", "=", 'say "a"')),
        ("`best before` >= 2024", Compare("best before", ">=", 2024)),
        ("x<-1.5e3", Compare("x", "<", -1500.0)),
        ("x <= +7", Compare("x", "<=", 7)),
        ("x > .5", Compare("x", ">", 0.5)),
        ("x != TRUE", Compare("x", "!=", True)),
        ("x=traffic-light.2", Compare("x", "=", "traffic-light.2")),
        ("größe = groß", Compare("größe", "=", "groß")),
        ("x in (1, 'b', c, false)", OneOf("x", (1, "b", "c", False))),
        ("x not in (1)", Not(OneOf("x", (1,)))),
        ("x is null", IsNull("x")),
        ("x IS NOT NULL", Not(IsNull("x"))),
        ("a=1 and b=1 and c=1", Every((A, B, C))),
        ("a=1 or b=1 and c=1", Either((A, Every((B, C))))),
        ("(a=1 or b=1) and c=1", Every((Either((A, B)), C))),
        ("not a=1 and b=1", Every((Not(A), B))),
        ("not (a=1 and b=1)", Not(Every((A, B)))),
        ("not not a=1", Not(Not(A))),
        ("((a=1))", A),
        ("a=1and b=1", None),
    ],
)
def test_parse(text: str, node: object) -> None:
    if node is None:
        with pytest.raises(WhereError):
            parse(text)
    else:
        assert parse(text) == node


@pytest.mark.parametrize(
    ("text", "message", "position"),
    [
        ("", "a field, found the end", 1),
        ("   ", "a field, found the end", 4),
        ("price <", "a value, found the end", 8),
        ("price", "a comparison", 6),
        ("price 5", "a comparison", 7),
        ("price < 5 price", "'and', 'or' or the end", 11),
        ("price < and", "a value", 9),
        ("price = null", "is null", 9),
        ("and = 3", "a field", 1),
        ("5 < price", "a field", 1),
        ("'price' < 5", "a field", 1),
        ("(price < 5", "')'", 11),
        ("price < 5)", "the end", 10),
        ("x in ()", "a value", 7),
        ("x in (1", "')'", 8),
        ("x not 5", "'in'", 7),
        ("x is 5", "'null'", 6),
        ("x = 'open", "a field, a value or an operator", 5),
        ("x = 3d", "a field, a value or an operator", 5),
        ("x; drop", "a field, a value or an operator", 2),
        ("__import__('os')", "a comparison", 11),
        ("x = " + "9" * 101, "at most 100 digits", 5),
        ("(" * 60 + "x=1" + ")" * 60, "at most 50 levels", 52),
        ("not " * 60 + "x=1", "at most 50 levels", 205),
    ],
)
def test_messages_point_at_the_place(text: str, message: str, position: int) -> None:
    with pytest.raises(WhereError) as caught:
        parse(text)
    first, line, pointer = str(caught.value).split("\n")
    assert message in first
    assert f"position {position}" in first
    assert line == f"  {text}"
    assert pointer.index("^") == position + 1


def test_hostile_filters_end_in_an_error_quickly() -> None:
    for text in ("(" * 100_000, "not " * 100_000, "x=1 or " * 20_000, "'" * 99_999, "`" * 9_999, "1" * 100_000):
        with pytest.raises(WhereError):
            parse(text)


def test_fields() -> None:
    assert fields(parse("a=1 and (not b in (2) or `c d` is null) and a<5")) == {"a", "b", "c d"}


@pytest.mark.parametrize("character", ["1", "9.", "1e", "a", " ", "'", "''", '"', "`", "=", "-1", "not ", "a'"])
def test_time_is_linear_in_the_length(character: str) -> None:
    """A pattern that gives characters back and tries again would take minutes for these."""
    with pytest.raises(WhereError):
        parse("x = " + character * (99_000 // len(character)) + "\x00")


def test_a_filter_that_is_too_long_is_refused_without_showing_it() -> None:
    with pytest.raises(WhereError, match=r"^where: expected a filter of at most 100000 characters, found 100001$"):
        parse("a" * 100_001)
    assert fields(parse("a=1 or " * 10_000 + "b=2")) == {"a", "b"}


def test_a_long_filter_is_shown_around_the_place() -> None:
    with pytest.raises(WhereError) as caught:
        parse("x = 1 or " * 2000 + "? " + "or y = 2 " * 2000)
    first, line, pointer = str(caught.value).split("\n")
    assert "position 18001" in first
    assert len(line) < 600
    assert line[pointer.index("^")] == "?"
