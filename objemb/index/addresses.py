"""Addresses: where an index lives, a folder or a table of a database.

=====================================  =================================================================
``shop.index``                         a folder
``postgresql://host/db?table=shop``    the table ``shop`` of a PostgreSQL database with pgvector
``qdrant://host:6333/shop``            the collection ``shop`` of a Qdrant server; ``qdrant+https://`` with TLS
``lance:/data/shop``                   the Lance table ``/data/shop.lance``
``lance+s3://bucket/shop``             the same in an object store
=====================================  =================================================================

The part before the colon names a plug-in of :mod:`objemb.index.stores`, and after a plus sign how it is reached. A user
name may stand before the host, a password may not: an address is shown in messages and lists of processes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from objemb import checks, registry

#: The kind of the plug-ins, see :mod:`objemb.index.stores.base`.
STORES = "index.stores"
#: Names of options of an address that look like secrets.
_SECRET = re.compile(r"pass(word|wd|file)?$|secret|token|api_?key|access_?key|credential", re.IGNORECASE)
# at least two letters: a single one is a drive of Windows
_SCHEME = re.compile(r"(?P<store>[a-z][a-z0-9_]+)(?:\+(?P<transport>[a-z0-9]+))?:(?P<slashes>/{0,2})", re.IGNORECASE)


@dataclass(frozen=True)
class Address:
    """A parsed address of a table. ``str(address)`` is its text, which holds no secret.

    Attributes:
        text: As it was written.
        store: Name of the plug-in that opens it, such as ``postgresql``.
        transport: What follows the plus sign, such as ``s3`` or ``https``; empty for the plug-in's own way.
        host: Name of the host, or the bucket; empty for none.
        port: Its port, or None.
        user: User name, or None.
        path: The path, decoded, with its leading slash.
        options: What follows the question mark, by name.
    """

    text: str
    store: str
    transport: str = ""
    host: str = ""
    port: int | None = None
    user: str | None = None
    path: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.text

    @property
    def table(self) -> str:
        """Name of the table: the option ``table``, else the last part of the path."""
        return self.options.get("table") or self.path.rstrip("/").rpartition("/")[2] or self.store

    def only_options(self, *known: str) -> Address:
        """This address, or ``ValueError`` if it has options other than these."""
        for name in self.options:
            if name not in known:
                found = f"found {name!r}{checks.nearest(name, known)}"
                raise ValueError(f"{self}: expected the options {checks.listed(known) or 'none'}, {found}")
        return self


def parse_address(where: str | Path) -> Address | None:
    """The address of a table; None for a folder.

    Raises:
        ValueError: It names no known plug-in, contains a password, or is not well formed. The message does not repeat a
            password.
    """
    text = str(where)
    scheme = _SCHEME.match(text)
    if scheme is None:
        return None
    store, known = scheme["store"].lower(), registry.names(STORES)
    if store not in known:
        if scheme["slashes"] != "//":
            return None  # a folder whose name has a colon
        raise ValueError(
            f"address: expected a folder or an address of one of {checks.listed(known)}, found {store!r}"
            f"{checks.nearest(store, known)}"
        )
    if scheme["slashes"] == "/" and isinstance(where, Path):
        raise ValueError(f"address: expected the text of an address, found a Path, which drops a slash: {text!r}")
    try:
        parts = urlsplit(text)
        host, port, password = parts.hostname or "", parts.port, parts.password
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError as error:
        raise ValueError(f"address: expected {store}://HOST:PORT/NAME, found one that cannot be read") from error
    secret = next((name for name in options if _SECRET.search(name)), None)
    if password is not None or secret is not None:
        where_from = registry.load(STORES, store).credentials  # type: ignore[attr-defined]
        found = "a password" if password is not None else f"the option {secret!r}"
        raise ValueError(f"address: expected no secret, found {found} in one of {store}: {where_from}")
    transport = (scheme["transport"] or "").lower()
    user = None if parts.username is None else unquote(parts.username)
    return Address(text, store, transport, host, port, user, unquote(parts.path), options)
