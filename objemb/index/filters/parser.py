"""The language of ``--where``: parsed into a small tree, never evaluated as code.

::

    label = bottle and price < 5
    (shelf in (1, 2, 'top') or `best before` is null) and not sold = true

=================  =====================================================================================
``=`` ``==`` ``!=``  equal, not equal
``<`` ``<=`` ``>`` ``>=``  order of numbers, or of texts by code points
``in (a, b)``      one of the values; ``not in`` is the opposite
``is null``        the value is missing; ``is not null`` is the opposite
``not and or``     in this order of strength, and parentheses
=================  =====================================================================================

The left side is a field; a name that is not a single word is written in backticks. The right side is a number,
``true``, ``false``, a word, or a text in single or double quotes (a quote within it is doubled). Keywords are
case-insensitive. As in SQL, a missing value is neither equal nor unequal to anything: only ``is null`` matches it, also
within ``not``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from objemb.index.filters.syntax import Compare, Either, Every, IsNull, Node, Not, OneOf, Value, WhereError

#: Maximum depth of nested parentheses and ``not``.
MAX_DEPTH = 50
#: Maximum length of a number, and of a filter, in characters.
MAX_DIGITS = 100
MAX_LENGTH = 100_000
#: Characters of a filter shown before and after the position of an error.
SHOWN = 240
KEYWORDS = frozenset({"and", "or", "not", "in", "is", "null", "true", "false"})
_COMPARISONS = {"=": "=", "==": "=", "!=": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
# Possessive quantifiers (``++``, ``*+``) never backtrack: the time is linear in the length of the text.
_TOKEN = re.compile(
    r"""\s*+(?:
        (?P<text>'(?:[^']|'')*+'|"(?:[^"]|"")*+")
      | (?P<field>`[^`]++`)
      | (?P<number>[+-]?(?:\d++(?:\.\d*+)?|\.\d++)(?:[eE][+-]?\d++)?+)(?![\w.])
      | (?P<word>[^\W\d][\w.\-]*+)
      | (?P<symbol>==|!=|<=|>=|[=<>(),])
      | (?P<end>$)
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    position: int

    @property
    def keyword(self) -> str | None:
        """This token as a lower-case keyword or symbol, or None if it is neither."""
        lower = self.text.lower()
        return lower if self.kind == "symbol" or (self.kind == "word" and lower in KEYWORDS) else None


def parse(text: str) -> Node:
    """Parse a filter.

    Raises:
        WhereError: The text is not a valid filter; the message points at the position.
    """
    return _Parser(text).parse()


class _Parser:
    """Recursive descent: either -> every -> negation -> comparison."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_LENGTH:
            raise WhereError(f"where: expected a filter of at most {MAX_LENGTH} characters, found {len(text)}")
        self._text = text
        self._tokens = self._split()
        self._at = 0

    def parse(self) -> Node:
        node = self._either(0)
        if self._token.kind != "end":
            raise self._error("'and', 'or' or the end")
        return node

    def _split(self) -> list[_Token]:
        tokens: list[_Token] = []
        position = 0
        while not tokens or tokens[-1].kind != "end":
            match = _TOKEN.match(self._text, position)
            if match is None:
                rest = self._text[position:]
                raise self._error_at(position + len(rest) - len(rest.lstrip()), "a field, a value or an operator")
            kind = str(match.lastgroup)
            tokens.append(_Token(kind, match[kind], match.start(kind)))
            position = match.end()
        return tokens

    @property
    def _token(self) -> _Token:
        return self._tokens[self._at]

    def _next(self) -> _Token:
        token = self._token
        self._at += token.kind != "end"
        return token

    def _take(self, *keywords: str) -> str | None:
        """Consume and return the next token if it is one of these keywords or symbols, else None."""
        keyword = self._token.keyword
        if keyword not in keywords:
            return None
        self._next()
        return keyword

    def _expect(self, keyword: str) -> None:
        if not self._take(keyword):
            raise self._error(repr(keyword))

    def _either(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise self._error(f"at most {MAX_DEPTH} levels of parentheses and 'not'")
        return self._joined("or", Either, lambda: self._joined("and", Every, lambda: self._negation(depth)))

    def _joined(self, word: str, kind: type[Every] | type[Either], part: Callable[[], Node]) -> Node:
        parts = [part()]
        while self._take(word):
            parts.append(part())
        return parts[0] if len(parts) == 1 else kind(tuple(parts))

    def _negation(self, depth: int) -> Node:
        if self._take("not"):
            if depth >= MAX_DEPTH:
                raise self._error(f"at most {MAX_DEPTH} levels of parentheses and 'not'")
            return Not(self._negation(depth + 1))
        if self._take("("):
            node = self._either(depth + 1)
            self._expect(")")
            return node
        return self._comparison()

    def _comparison(self) -> Node:
        field = self._field()
        if operator := self._take(*_COMPARISONS):
            return Compare(field, _COMPARISONS[operator], self._value())
        if self._take("is"):
            opposite = self._take("not")
            self._expect("null")
            return Not(IsNull(field)) if opposite else IsNull(field)
        opposite = self._take("not")
        if self._take("in"):
            node = OneOf(field, self._values())
            return Not(node) if opposite else node
        raise self._error("'in'" if opposite else "a comparison (= != < <= > >=), 'in' or 'is'")

    def _field(self) -> str:
        token = self._token
        if token.kind == "field":
            return self._next().text[1:-1]
        if token.kind == "word" and not token.keyword:
            return self._next().text
        raise self._error("a field")

    def _values(self) -> tuple[Value, ...]:
        self._expect("(")
        values = [self._value()]
        while self._take(","):
            values.append(self._value())
        self._expect(")")
        return tuple(values)

    def _value(self) -> Value:
        token = self._token
        if token.kind == "number":
            if len(token.text) > MAX_DIGITS:
                raise self._error(f"a number of at most {MAX_DIGITS} digits")
            return _number(self._next().text)
        if token.kind == "text":
            quote = token.text[0]
            return self._next().text[1:-1].replace(quote * 2, quote)
        if word := self._take("true", "false"):
            return word == "true"
        if token.keyword == "null":
            raise self._error("a value (missing values are found with 'is null')")
        if token.kind == "word" and not token.keyword:
            return self._next().text
        raise self._error("a value")

    def _error(self, expected: str) -> WhereError:
        return self._error_at(self._token.position, expected)

    def _error_at(self, position: int, expected: str) -> WhereError:
        found = repr(self._text[position : position + 20]) if position < len(self._text) else "the end"
        start = max(0, position - SHOWN)
        before, more = "..." if start else "", "..." if len(self._text) > position + SHOWN else ""
        shown = "".join(c if c.isprintable() else " " for c in self._text[start : position + SHOWN])
        pointer = f"  {before}{shown}{more}\n  {' ' * (len(before) + position - start)}^"
        return WhereError(f"where: expected {expected}, found {found} at position {position + 1}\n{pointer}")


def _number(text: str) -> int | float:
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
