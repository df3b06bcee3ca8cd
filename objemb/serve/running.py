"""Starts the service on a host and a port."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection
from pathlib import Path

from objemb import checks
from objemb.serve.guard import is_loopback
from objemb.serve.service import Service
from objemb.serve.tokens import TOKEN_VARIABLE, read_token

#: Names under which this machine reaches itself.
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


def needed_token(host: str, file: Path | None, *, no_token: bool) -> str | None:
    """The token that requests have to carry; None for none.

    Raises:
        ValueError: The host can be reached from other machines and there is no token, unless ``no_token`` allows it; or
            there is a token although ``no_token`` asks for none.
    """
    token = read_token(file)
    if no_token and token is not None:
        raise ValueError(f"--no-token: expected neither --token nor {TOKEN_VARIABLE}, found one of them")
    if token is None and not no_token and not is_loopback(host):
        raise ValueError(
            f"--host: expected a token (--token FILE or {TOKEN_VARIABLE}), since {host} can be reached from other "
            "machines, found none; --no-token lets everyone search who reaches it"
        )
    return token


def bound(host: str, port: int) -> socket.socket:
    """A socket of a host and a port; 0 is any free port.

    Raises:
        ValueError: They cannot be bound, for instance because another program has them.
    """
    checks.between("--port", port, 0, 65535)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        opened = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ValueError(f"--host: expected a name or an address of this machine, found {host!r}: {error}") from error
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
    except OSError as error:
        opened.close()
        raise ValueError(f"--port: expected one that is free on {host}, found {port}: {error.strerror}") from error
    return opened


def served_hosts(host: str, allowed: Collection[str], token: str | None) -> frozenset[str] | None:
    """Names of hosts that requests may ask for; None for all.

    Without a token, a page of another site whose name leads to this machine could read the library; it asks for a host
    of its own name.
    """
    if not is_loopback(host) and (token is not None or not allowed):
        return None
    return LOOPBACK_NAMES | {host.lower(), *(name.lower() for name in allowed)}


def serve(
    service: Service,
    opened: socket.socket,
    *,
    token: str | None,
    hosts: frozenset[str] | None,
    on_start: Callable[[], None],
) -> None:
    """Answer requests until SIGINT or SIGTERM comes, and finish what was accepted.

    Args:
        service: What answers; it is closed at the end.
        opened: A bound socket.
        token: The token that requests need, None for none.
        hosts: As :func:`served_hosts` returns them.
        on_start: Called once requests are answered.

    Raises:
        ImportError: A library of the service is not installed.
    """
    try:
        from objemb.serve._app import guarded_app
        from objemb.serve._server import run
    except ModuleNotFoundError as error:
        raise ImportError(f"objemb serve needs pip install 'objemb[serve]' ({error.name} is missing)") from error

    app = guarded_app(service, token=token, hosts=hosts)
    run(app, [opened], service.limits, on_start)
