from __future__ import annotations

import io
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from objemb.serve.current import Opening
from objemb.serve.limits import Limits
from objemb.serve.running import bound, served_hosts
from objemb.serve.service import Options, Service
from tests.runtimes.models import write_model

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")
pytest.importorskip("onnxruntime")

TOKEN = "the-token-of-the-tests"
COUNT = 8


@dataclass
class Served:
    """A service that runs in this process."""

    url: str
    service: Service
    client: Any
    port: int

    def search(self, photo: bytes | None = None, query: str = "{}", **headers: str) -> Any:
        files = {"photo": ("1.png", photo)} if photo is not None else None
        return self.client.post("/v1/search", files=files, data={"query": query}, headers=headers)


def picture(seed: int, size: tuple[int, int] = (120, 100)) -> Image.Image:
    """A photo of one colour with some noise."""
    rng = np.random.default_rng(seed)
    colour, noise = rng.integers(0, 200, 3), rng.integers(0, 40, (size[1], size[0], 3))
    return Image.fromarray((colour + noise).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("exported") / "model")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    (folder / "shelf").mkdir()
    rows = ["path,price"]
    for number in range(COUNT):
        name = f"shelf/{number}.png" if number % 2 else f"{number}.png"
        picture(number).save(folder / name)
        rows.append(f"{name},{number}")
    (folder / "list.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture
def index(tmp_path: Path, shared_index: Path) -> Path:
    """An index that a test may change."""
    return Path(shutil.copytree(shared_index, tmp_path / "index"))


@pytest.fixture(scope="session")
def shared_index(tmp_path_factory: pytest.TempPathFactory, photos: Path, model: Path) -> Path:
    return indexed(tmp_path_factory.mktemp("shared") / "index", photos, model)


def indexed(folder: Path, photos: Path, model: Path) -> Path:
    from typer.testing import CliRunner

    from objemb.cli.app import command_line

    done = CliRunner().invoke(
        command_line(), ["index", str(photos / "list.csv"), "-o", str(folder), "--model", str(model)]
    )
    assert done.exit_code == 0, done.output
    return folder


@contextmanager
def serving(index: Path | str, options: Options | None = None, *, token: str | None = None) -> Iterator[Served]:
    from objemb.serve._app import guarded_app
    from objemb.serve._server import run

    options = options or Options(decoders=1)
    started = threading.Event()
    with bound("127.0.0.1", 0) as opened:
        service = Service(Opening(index), options)
        app = guarded_app(service, token=token, hosts=served_hosts("127.0.0.1", (), token))
        stop: list[Callable[[], None]] = []
        thread = threading.Thread(
            target=run,
            args=(app, [opened], options.limits, started.set),
            kwargs={"on_server": stop.append},
            daemon=True,
        )
        thread.start()
        assert started.wait(30)
        port = opened.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        try:
            with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
                yield Served(url, service, client, port)
        finally:
            stop[0]()
            thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def served(shared_index: Path) -> Iterator[Served]:
    """A service that only reads, shared by the tests of a module."""
    with serving(shared_index) as running:
        yield running


def raw(port: int, content: bytes, *, seconds: float = 10) -> bytes:
    """What comes back for bytes that are sent as they are, until the service closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        connection.sendall(content)
        received = b""
        while part := connection.recv(65536):
            received += part
        return received


def small_limits(**changes: Any) -> Limits:
    return Limits(**{"idle_seconds": 0.5, "header_seconds": 0.5, "body_seconds": 0.5, "body_bytes": 200_000, **changes})
