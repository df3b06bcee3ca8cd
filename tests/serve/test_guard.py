"""Requests that are not admitted, and bytes that are no requests."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from objemb.serve.service import Options
from tests.serve.conftest import TOKEN, Served, encoded, picture, raw, serving, small_limits

PHOTO = encoded(picture(0))


@pytest.fixture(scope="module")
def strict(shared_index: Path) -> Iterator[Served]:
    """A service with a token and small limits."""
    with serving(shared_index, Options(small_limits(failures=3), decoders=1), token=TOKEN) as running:
        yield running


def test_every_answer_has_the_headers_of_safety(served: Served) -> None:
    for path in ("/v1/info", "/v1/nothing", "/v1/images/nothing", "/healthz"):
        headers = served.client.get(path, headers={"Origin": "https://example.org"}).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers


def test_a_name_that_was_made_to_lead_here_is_refused(served: Served) -> None:
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[::2]"):
        answer = served.client.get("/v1/info", headers={"Host": host})
        assert (answer.status_code, answer.headers["content-type"]) == (421, "application/problem+json"), host
    for host in ("localhost", f"localhost:{served.port}", "127.0.0.1", "[::1]:80", "LOCALHOST"):
        assert served.client.get("/v1/info", headers={"Host": host}).status_code == 200, host


def test_requests_of_other_pages_are_refused(served: Served) -> None:
    assert served.search(PHOTO, **{"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert served.search(PHOTO, **{"Sec-Fetch-Site": "same-origin"}).status_code == 200


def test_a_token_is_needed_for_everything_but_the_state(strict: Served) -> None:
    for path in ("/v1/info", "/v1/images", "/v1/images/0.png", "/v1/photos/0.png", "/metrics", "/openapi.json", "/no"):
        answer = strict.client.get(path, headers={"Authorization": ""})
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), path
    for path in ("/healthz", "/readyz"):
        assert strict.client.get(path, headers={"Authorization": ""}).status_code == 200
    assert strict.search(PHOTO).status_code == 200
    assert strict.search(PHOTO, Authorization="").status_code == 401


def test_guesses_are_slowed_down(shared_index: Path) -> None:
    with serving(shared_index, Options(small_limits(failures=3), decoders=1), token=TOKEN) as running:
        answers = [running.client.get("/v1/info", headers={"Authorization": f"Bearer {n}"}) for n in range(5)]
        assert [a.status_code for a in answers] == [401, 401, 401, 429, 429]
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert running.client.get("/v1/info").status_code == 429, "the right one is not told from others either"


def test_bodies_that_are_too_long(strict: Served) -> None:
    answer = strict.search(b"x" * 300_000)
    assert answer.status_code == 413
    assert "200,000 bytes" in answer.json()["expected"]
    head = f"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
    chunked = head + "Content-Type: multipart/form-data; boundary=b\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"".join(b"8000\r\n" + b"x" * 0x8000 + b"\r\n" for _ in range(8))
    received = raw(strict.port, chunked.encode() + body)
    assert received.startswith(b"HTTP/1.1 413"), received[:100]
    assert b"connection: close" in received.lower()


def test_slow_bodies_and_slow_heads_are_not_waited_for(strict: Served) -> None:
    head = f"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 1000\r\n"
    begun = time.monotonic()
    assert raw(strict.port, (head + "\r\nfew").encode()).startswith(b"HTTP/1.1 408")
    assert raw(strict.port, head.encode()) == b"", "a head that does not end"
    assert raw(strict.port, b"") == b"", "no byte at all"
    assert time.monotonic() - begun < 8


def test_who_waits_before_the_first_byte_and_who_sends_slowly_but_steadily_is_answered(shared_index: Path) -> None:
    limits = small_limits(idle_seconds=20, body_rate=1000)
    with serving(shared_index, Options(limits, decoders=1)) as running:
        with socket.create_connection(("127.0.0.1", running.port), timeout=20) as connection:
            time.sleep(0.8)  # longer than a head may take
            head = b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            connection.sendall(head + b"Connection: close\r\nContent-Length: 6000\r\n\r\n")
            for _ in range(8):
                time.sleep(0.1)  # in the end longer than a body may take of which less has come
                connection.sendall(b" " * 750)
            received = b""
            while part := connection.recv(65536):
                received += part
        assert received.startswith(b"HTTP/1.1 422"), received[:100]


def test_a_head_that_comes_byte_by_byte_is_not_waited_for(strict: Served) -> None:
    with socket.create_connection(("127.0.0.1", strict.port), timeout=5) as connection:
        begun = time.monotonic()
        connection.settimeout(0.02)
        head = iter(b"GET /healthz HTTP/1.1\r\n" + b"X-Long: y\r\n" * 100)
        ended = False
        while not ended and time.monotonic() - begun < 5:
            try:
                connection.sendall(bytes([next(head)]))
                ended = connection.recv(100) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                ended = True
        assert ended


def test_half_closed_connections_and_floods_of_headers(strict: Served) -> None:
    with socket.create_connection(("127.0.0.1", strict.port), timeout=5) as connection:
        connection.sendall(b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nfew")
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
    flood = b"GET /healthz HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(20_000))
    with contextlib.suppress(ConnectionError):  # closed while it was still being sent
        assert raw(strict.port, flood).startswith(b"HTTP/1.1 4")
    for garbage in (
        b"\x00" * 100,
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\nConnection: close\r\n\r\n",
        b"\x16\x03\x01\x02\x00" * 20,
    ):
        assert raw(strict.port, garbage).startswith(b"HTTP/1.1 4")
    assert strict.client.get("/healthz").status_code == 200


def test_more_bodies_than_fit_are_told_to_come_again(shared_index: Path) -> None:
    limits = small_limits(body_bytes=100_000, held_bytes=100_000, body_seconds=3)
    with serving(shared_index, Options(limits, decoders=1)) as running:
        head = "POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000\r\n\r\nfew"
        with socket.create_connection(("127.0.0.1", running.port)) as waiting:
            waiting.sendall(head.encode())
            time.sleep(0.3)
            answer = running.search(PHOTO)
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "1"
        time.sleep(0.3)
        assert running.search(PHOTO).status_code == 200


def test_connections_are_counted(shared_index: Path) -> None:
    limits = small_limits(connections=4, idle_seconds=3)
    with serving(shared_index, Options(limits, decoders=1)) as running:
        many = [socket.create_connection(("127.0.0.1", running.port), timeout=5) for _ in range(12)]
        time.sleep(0.3)
        closed = 0
        for connection in many:
            connection.setblocking(False)
            try:
                closed += connection.recv(1) == b""
            except BlockingIOError:
                pass
            except ConnectionError:
                closed += 1
            connection.close()
        assert closed >= 7
        time.sleep(0.3)
        assert running.client.get("/healthz").status_code == 200
