"""Errors as problem details (RFC 9457), which name what was expected and what was found."""

from __future__ import annotations

import json
import math
import re
from http import HTTPStatus

from objemb.checks import (
    ArtefactMismatchError,
    IndexLockedError,
    IndexWriteError,
    ObjembError,
)
from objemb.images.decode import UnreadableImageError
from objemb.text import visible

PROBLEM_TYPE = "application/problem+json"
#: Seconds after which a request that came at a busy time may be sent again: at least, and at most.
RETRY_SECONDS, MOST_RETRY_SECONDS = 1, 30
#: How errors of objemb are written.
_EXPECTED = re.compile(r"(?:(?P<where>[^:]*): )?expected (?P<expected>.*?), found (?P<found>[^\n]*).*", re.DOTALL)


class Problem(Exception):
    """A request that cannot be answered.

    Attributes:
        status: Status code of HTTP.
        detail: What is wrong.
        expected: What was expected, None if that says nothing.
        found: What was found, likewise.
        retry: Seconds after which the same request may succeed; None if it never does.
        headers: Further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        expected: str | None = None,
        found: str | None = None,
        retry: int | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(detail)
        parts = _EXPECTED.fullmatch(detail)
        self.status = status
        self.detail = detail
        self.expected = expected if expected is not None or parts is None else parts["expected"]
        self.found = found if found is not None or parts is None else parts["found"]
        self.retry = retry
        self.headers = headers

    def body(self) -> bytes:
        """The problem as JSON."""
        document: dict[str, object] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        document |= {k: v for k, v in (("expected", self.expected), ("found", self.found)) if v is not None}
        return json.dumps(document).encode()

    def all_headers(self) -> list[tuple[str, str]]:
        """The headers that belong to :meth:`body`."""
        again = [] if self.retry is None else [("Retry-After", str(self.retry))]
        return [("Content-Type", PROBLEM_TYPE), *again, *self.headers]


#: A fault of the service, whose message may name files.
INTERNAL = Problem(500, "internal error; the log of the service says what it is")


def busy(what: str, most: int, *, seconds: float = RETRY_SECONDS) -> Problem:
    """The problem of a service that has enough to do for so many seconds."""
    retry = min(max(math.ceil(seconds), RETRY_SECONDS), MOST_RETRY_SECONDS)
    return Problem(503, f"{what}: expected at most {most} at a time, found more; try again", retry=retry)


def not_in_time(what: str, expected: str) -> Problem:
    """The problem of a request for which the machine had too little time; it may succeed later."""
    return Problem(503, f"{what}: expected {expected}, found none; try again", retry=RETRY_SECONDS)


def problem_of(error: Exception) -> Problem | None:
    """The problem of a request that raised an error; None for a fault of the service."""
    if isinstance(error, Problem):
        return error
    text = visible_lines(str(error))
    if isinstance(error, UnreadableImageError):
        return Problem(422, text, expected="a readable photo", found=error.reason)
    if isinstance(error, IndexLockedError):
        return Problem(503, "index: expected no other writer, found one at work; try again", retry=RETRY_SECONDS)
    if isinstance(error, IndexWriteError):
        return Problem(503, "index: expected a folder that can be written, found that it cannot", retry=RETRY_SECONDS)
    if isinstance(error, (ArtefactMismatchError, ObjembError)):
        return None
    if isinstance(error, (ValueError, TypeError)):
        return Problem(422, text)
    return None


def visible_lines(text: str) -> str:
    """A text of several lines without unseen characters: an error of a filter points at a place in its third line."""
    return "\n".join(visible(line) for line in text.split("\n"))
