"""Runs the application: uvicorn, with limits for connections that send nothing."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from objemb.serve.guard import Guard
from objemb.serve.limits import Limits
from objemb.serve.problems import MOST_RETRY_SECONDS

#: Bytes of the head of a request.
HEAD_BYTES = 32 * 1024
#: Seconds that a connection stays open between requests: longer than a client waits that was told to come again, whose
#: next request would else meet a connection that is being closed.
KEEP_ALIVE_SECONDS = 2 * MOST_RETRY_SECONDS + 15
#: Connections that wait to be accepted.
BACKLOG = 2048


def run(
    app: Guard,
    sockets: list[socket.socket],
    limits: Limits,
    on_start: Callable[[], None],
    on_server: Callable[[Callable[[], None]], None] = lambda stop: None,
) -> None:
    """Serve until SIGINT or SIGTERM comes; what was accepted by then is answered.

    Args:
        app: The application.
        sockets: Listening sockets.
        limits: ``idle_seconds``, ``header_seconds``, ``body_seconds``, ``request_seconds`` and ``connections`` of
            these.
        on_start: Called once requests are answered.
        on_server: Called with a function that stops the server, for threads that get no signals.
    """
    config = uvicorn.Config(
        app,
        http=_protocol(limits),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=round(limits.body_seconds + limits.request_seconds) + 1,
        h11_max_incomplete_event_size=HEAD_BYTES,
        backlog=BACKLOG,
    )
    server = _Server(config, on_start)
    on_server(server.stop)
    server.run(sockets)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start

    def stop(self) -> None:
        """Finish what was accepted, and end."""
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_start()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As in the base class, except that a signal which was obeyed is not raised again: the program ends well."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: FrameType | None) -> None:
            self.handle_exit(number, frame)

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _protocol(limits: Limits) -> type[asyncio.Protocol]:
    class Limited(H11Protocol):
        """Closes connections whose next request takes too long to come, and those beyond the most that are open."""

        _timer: asyncio.TimerHandle | None = None
        _in_head = False

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                transport.abort()
            else:
                self._expect_within(limits.idle_seconds)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._answers():  # the guard limits all that follows
                self._stop()
            elif not self._in_head:
                self._in_head = True
                self._expect_within(limits.header_seconds)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _expect_within(self, seconds: float) -> None:
            """Limit the time in which the rest of the head of a request may come."""
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self.loop.call_later(seconds, self._expire)

        def _answers(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _stop(self) -> None:
            self._in_head = False
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _expire(self) -> None:
            self._timer = None
            if not self._answers() and not self.transport.is_closing():
                self.transport.close()

    return Limited
