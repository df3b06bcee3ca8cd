from __future__ import annotations

from pathlib import Path

import pytest

from objemb.serve import tokens
from objemb.serve.guard import is_loopback
from objemb.serve.running import LOOPBACK_NAMES, bound, needed_token, served_hosts
from objemb.serve.tokens import TOKEN_VARIABLE, TokenCheck, read_token

TOKEN = "0123456789abcdef"


def test_a_token_is_read_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert read_token(None) is None
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert read_token(tmp_path / "token") == TOKEN
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    assert read_token(None) == TOKEN
    with pytest.raises(ValueError, match="expected a file or the variable OBJEMB_TOKEN, found both"):
        read_token(tmp_path / "token")


@pytest.mark.parametrize("text", ["", "short", "x" * 15, "with a blank " * 3, "\u00e4" * 20, "x" * 20 + "\x01"])
def test_tokens_that_are_too_weak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    (tmp_path / "token").write_text(text)
    with pytest.raises(ValueError, match="expected a token of at least 16 ASCII characters"):
        read_token(tmp_path / "token")


def test_the_right_token_and_others() -> None:
    check = TokenCheck(TOKEN, 3)
    assert check.is_right("a", b"Bearer " + TOKEN.encode())
    assert check.is_right("a", b"bearer  " + TOKEN.encode())
    for wrong in (b"", b"Bearer", TOKEN.encode(), b"Basic " + TOKEN.encode(), b"Bearer " + TOKEN[:-1].encode()):
        assert not check.is_right("a", wrong)


def test_an_address_that_guesses_has_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(tokens.time, "monotonic", lambda: now)
    check = TokenCheck(TOKEN, 3)
    for _ in range(3):
        assert check.waits("a") == 0
        assert not check.is_right("a", b"Bearer wrong")
    assert 1 <= check.waits("a") <= 61
    assert check.waits("b") == 0, "others do not wait"
    now += 61
    assert check.waits("a") == 0
    assert check.is_right("a", b"Bearer " + TOKEN.encode())


def test_requests_without_a_token_are_no_guesses() -> None:
    check = TokenCheck(TOKEN, 2)
    for _ in range(5):
        assert not check.is_right("a", b"")
    assert check.waits("a") == 0


def test_only_so_many_addresses_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "REMEMBERED", 4)
    check = TokenCheck(TOKEN, 2)
    for number in range(20):
        check.is_right(str(number), b"Bearer wrong")
    assert len(check._failures) == 4


@pytest.mark.parametrize(
    ("host", "own"),
    [
        *((host, True) for host in ("127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost")),
        *((host, False) for host in ("0.0.0.0", "::", "192.168.0.1", "example.org", "")),
    ],
)
def test_what_is_loopback(host: str, own: bool) -> None:
    assert is_loopback(host) is own


def test_another_host_needs_a_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert needed_token("127.0.0.1", None, no_token=False) is None
    with pytest.raises(ValueError, match=r"--host: expected a token .* since 0\.0\.0\.0 can be reached"):
        needed_token("0.0.0.0", None, no_token=False)
    assert needed_token("0.0.0.0", None, no_token=True) is None
    (tmp_path / "token").write_text(TOKEN)
    assert needed_token("0.0.0.0", tmp_path / "token", no_token=False) == TOKEN
    with pytest.raises(ValueError, match="--no-token: expected neither"):
        needed_token("0.0.0.0", tmp_path / "token", no_token=True)


def test_hosts_that_requests_may_ask_for() -> None:
    assert served_hosts("127.0.0.1", (), None) == LOOPBACK_NAMES
    assert served_hosts("127.0.0.1", ("Photos.Example.org",), None) == LOOPBACK_NAMES | {"photos.example.org"}
    assert served_hosts("0.0.0.0", (), TOKEN) is None
    assert served_hosts("192.168.0.1", ("a.example",), None) == LOOPBACK_NAMES | {"192.168.0.1", "a.example"}


def test_a_port_that_is_taken() -> None:
    with bound("127.0.0.1", 0) as first:
        first.listen()
        with pytest.raises(ValueError, match=r"--port: expected one that is free on 127\.0\.0\.1, found \d+"):
            bound("127.0.0.1", first.getsockname()[1])
    with pytest.raises(ValueError, match="--host: expected a name or an address of this machine"):
        bound("no such host.invalid", 0)
    with pytest.raises(ValueError, match="--port: expected"):
        bound("192.0.2.1", 0)
