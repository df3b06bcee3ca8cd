"""The token that requests have to carry."""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from collections import OrderedDict
from pathlib import Path

#: The environment variable that may hold the token.
TOKEN_VARIABLE = "OBJEMB_TOKEN"
#: Characters of a token at least: 16 characters of base64 are 96 bits.
MIN_LENGTH = 16
#: Addresses whose failures are remembered.
REMEMBERED = 10_000
#: Seconds in which failures are counted.
MINUTE = 60.0


def read_token(file: Path | None) -> str | None:
    """The token in a file, or else in the environment; None if there is none.

    Raises:
        ValueError: There is one in both, or it is too short or no single word of ASCII.
    """
    given = os.environ.get(TOKEN_VARIABLE)
    if file is None and given is None:
        return None
    if file is not None and given is not None:
        raise ValueError(f"--token: expected a file or the variable {TOKEN_VARIABLE}, found both")
    name = TOKEN_VARIABLE if file is None else str(file)
    text = (given if file is None else file.read_text(encoding="utf-8", errors="replace")) or ""
    token = text.strip()
    if len(token) < MIN_LENGTH or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(
            f"{name}: expected a token of at least {MIN_LENGTH} ASCII characters without blanks, found {len(token)} "
            "characters; make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return token


class TokenCheck:
    """Compares tokens in constant time, and lets addresses wait that have sent too many wrong ones.

    Args:
        token: The right one.
        failures: Wrong ones of one address in a minute, after which it is refused for the rest of the minute.
    """

    def __init__(self, token: str, failures: int) -> None:
        self._digest = _digest(token.encode())
        self._most = failures
        self._failures: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def waits(self, address: str) -> int:
        """Seconds that an address still has to wait; 0 if it may try."""
        since, count = self._failures.get(address, (0.0, 0))
        left = since + MINUTE - time.monotonic()
        return 0 if count < self._most or left <= 0 else int(left) + 1

    def is_right(self, address: str, authorization: bytes) -> bool:
        """Whether a header ``Authorization: Bearer TOKEN`` has the token; a wrong one is counted."""
        scheme, _, token = authorization.partition(b" ")
        right = hmac.compare_digest(_digest(token.strip()), self._digest) and scheme.lower() == b"bearer"
        if not right and authorization:
            since, count = self._failures.pop(address, (0.0, 0))
            now = time.monotonic()
            self._failures[address] = (since, count + 1) if now - since < MINUTE and count else (now, 1)
            while len(self._failures) > REMEMBERED:
                self._failures.popitem(last=False)
        return right


def _digest(token: bytes) -> bytes:
    """Of one length for tokens of any length, so that the comparison says nothing about it."""
    return hashlib.sha256(token).digest()
