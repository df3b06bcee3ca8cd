"""What every request passes before it is answered: who may ask, how much, and for how long (plain ASGI)."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any, TypeAlias

from objemb.serve.limits import Limits
from objemb.serve.problems import INTERNAL, Problem, busy, not_in_time, problem_of
from objemb.serve.tokens import TokenCheck

log = logging.getLogger(__name__)

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]
#: Called with route, method, status and seconds of each answer.
Count: TypeAlias = Callable[[str, str, int, float], None]

#: Routes as metrics name them, by their paths, or by the beginnings of these where they end in a slash.
ROUTES = {
    "/v1/images/": "/v1/images/{id}",
    "/v1/photos/": "/v1/photos/{id}",
    **{path: path for path in ("/v1/search", "/v1/detect", "/v1/describe", "/v1/images", "/v1/info", "/openapi.json")},
    **{path: path for path in ("/healthz", "/readyz", "/metrics")},
}
#: What needs no token: whether the service lives, and the files of the page, which ask for it.
OPEN_ROUTES = ("/healthz", "/readyz", "page")
#: Methods whose requests have a body.
WITH_BODY = ("POST", "PUT", "PATCH")
#: Seconds in which a body that is not wanted is read before the connection is closed; a client on a busy machine needs
#: more than one.
DRAIN_SECONDS = 5.0
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
]


class Guard:
    """Admits requests to an application, and answers those that it does not admit with a problem.

    Args:
        app: The application.
        limits: Limits of bodies and times.
        token: The token that requests need; None for none.
        hosts: Names of hosts that a request may ask for, in lower case without port; None for all. A page of another
            host whose name was made to lead here must not read the library of whoever opens it.
        pages: Paths of the page.
        count: Called for every answer.
    """

    def __init__(
        self,
        app: App,
        limits: Limits,
        *,
        token: str | None = None,
        hosts: Collection[str] | None = None,
        pages: Collection[str] = (),
        count: Count = lambda route, method, status, seconds: None,
    ) -> None:
        self._app = app
        self._limits = limits
        self._token = None if token is None else TokenCheck(token, limits.failures)
        self._hosts = hosts
        self._pages = pages
        self._count = count
        self.held_bytes = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request, or hand on what is none."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        answer, begun = _Answer(send), time.monotonic()
        route = self._route(scope["path"])
        try:
            try:
                await self._answer(scope, route, receive, answer)
            except Exception as error:
                problem = problem_of(error)
                if problem is None:
                    what = f"{type(error).__name__}: {error}"
                    log.error("%s %s: internal error: %s", scope["method"], route, what, exc_info=error)
                if answer.unread and b"expect" not in dict(scope["headers"]):
                    await self._drain(receive)
                await answer.problem(problem or INTERNAL)
        finally:
            self._count(route, scope["method"], answer.status, time.monotonic() - begun)

    def _route(self, path: str) -> str:
        if path in self._pages:
            return "page"
        if path in ROUTES and not path.endswith("/"):
            return path
        return next(
            (route for start, route in ROUTES.items() if start.endswith("/") and path.startswith(start)), "none"
        )

    async def _answer(self, scope: Message, route: str, receive: Receive, answer: _Answer) -> None:
        headers = dict(scope["headers"])
        answer.unread = scope["method"] in WITH_BODY
        self._check_host(headers)
        if route not in OPEN_ROUTES:
            self._check_sender(scope, headers)
        body, taken = b"", 0
        try:
            if scope["method"] in WITH_BODY:
                taken = self._take(headers)
                body = await self._body(receive)
                answer.unread = False
            if not await self._in_time(scope, body, receive, answer):
                seconds = self._limits.request_seconds
                raise not_in_time("request", f"an answer within {seconds:g} s")
        finally:
            self.held_bytes -= taken

    def _check_host(self, headers: dict[bytes, bytes]) -> None:
        if self._hosts is None:
            return
        host = headers.get(b"host", b"").decode("latin-1").lower()
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        if name not in self._hosts:
            raise Problem(
                421,
                "host: expected a name of this service, found another one; objemb serve --allow-host NAME adds one",
                expected=", ".join(sorted(self._hosts)),
                found=name,
            )

    def _check_sender(self, scope: Message, headers: dict[bytes, bytes]) -> None:
        if headers.get(b"sec-fetch-site", b"none") == b"cross-site":
            raise Problem(403, "request: expected one of this page or of a program, found one of another page")
        if self._token is None:
            return
        address = str((scope.get("client") or ("unknown",))[0])
        wait = self._token.waits(address)
        if wait:
            raise Problem(429, "token: expected fewer wrong ones, found too many; wait", retry=wait)
        authorization = headers.get(b"authorization", b"")
        if not self._token.is_right(address, authorization):
            found = "another one" if authorization else "none"
            raise Problem(
                401,
                f"token: expected 'Authorization: Bearer TOKEN' with the token of this service, found {found}",
                headers=(("WWW-Authenticate", "Bearer"),),
            )

    def _take(self, headers: dict[bytes, bytes]) -> int:
        """Count the bytes of a body before it comes; those of unknown length as the longest ones."""
        length = headers.get(b"content-length", b"")
        bytes_ = int(length) if length.isdigit() else self._limits.body_bytes
        if bytes_ > self._limits.body_bytes:
            raise self._too_long(f"{bytes_:,}")
        if self.held_bytes + bytes_ > self._limits.held_bytes:
            raise busy("bytes of requests", self._limits.held_bytes)
        self.held_bytes += bytes_
        return bytes_

    async def _body(self, receive: Receive) -> bytes:
        content, limits = bytearray(), self._limits
        begun = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(limits.body_seconds) as timeout:
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Problem(400, "body: expected all of it, found that the connection was closed")
                    content += message.get("body", b"")
                    if len(content) > limits.body_bytes:
                        raise self._too_long("more")
                    timeout.reschedule(begun + limits.body_seconds + len(content) / limits.body_rate)
                    if not message.get("more_body", False):
                        return bytes(content)
        except TimeoutError:
            expected = f"all of it within {limits.body_seconds:g} s, or {limits.body_rate:,} bytes a second"
            raise Problem(408, f"body: expected {expected}, found a part") from None

    async def _drain(self, receive: Receive) -> None:
        """Read some of a body that is not wanted, so that its sender comes to read the answer."""
        left = self._limits.body_bytes
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while left > 0:
                    message = await receive()
                    if not message.get("more_body", False):
                        return
                    left -= len(message.get("body", b""))

    def _too_long(self, found: str) -> Problem:
        return Problem(413, f"body: expected at most {self._limits.body_bytes:,} bytes, found {found}")

    async def _in_time(self, scope: Message, body: bytes, receive: Receive, answer: _Answer) -> bool:
        """Run the application until it has answered or the client has gone; whether that was in time."""
        replayed = False

        async def replay() -> Message:
            nonlocal replayed
            if not replayed:
                replayed = True
                return {"type": "http.request", "body": body, "more_body": False}
            await asyncio.Event().wait()  # that the client has gone is noticed here
            raise AssertionError

        work = asyncio.ensure_future(self._app(scope, replay, answer))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({work, gone}, timeout=self._limits.request_seconds, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await work
                return True
            return gone.done()
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)


class _Answer:
    """Sends an answer with the headers that every one has.

    Attributes:
        status: Status code; 499 until there is one, as for a client that has gone.
        unread: Whether a body may still come, so that the connection is of no use after a problem.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 499
        self.unread = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            names = {name.lower() for name, _ in message["headers"]}
            cache = [] if b"cache-control" in names else [(b"cache-control", b"no-store")]
            message["headers"] = [*message["headers"], *SECURITY_HEADERS, *cache]
        await self._send(message)

    async def problem(self, problem: Problem) -> None:
        """Answer with a problem, unless another answer has begun."""
        if self.status != 499:
            return
        body = problem.body()
        headers = [(name.lower().encode(), value.encode()) for name, value in problem.all_headers()]
        headers.append((b"content-length", str(len(body)).encode()))
        headers += [(b"connection", b"close")] if self.unread else []
        await self({"type": "http.response.start", "status": problem.status, "headers": headers})
        await self({"type": "http.response.body", "body": body})


def is_loopback(host: str) -> bool:
    """Whether a host name or address is that of this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
