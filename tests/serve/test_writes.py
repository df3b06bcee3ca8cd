"""Changes by requests: durable when answered, one writer, nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import objemb
from objemb.index.store import Index
from objemb.serve.service import Options
from tests.serve.conftest import COUNT, encoded, httpx, picture, serving


def put(client: Any, image: str, seed: int, document: str | None = None) -> Any:
    data = {} if document is None else {"image": document}
    return client.put(f"/v1/images/{image}", files={"photo": ("a.png", encoded(picture(seed)))}, data=data)


def test_an_image_is_added_replaced_and_deleted(index: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with serving(index, Options(photos=root, writable=True, decoders=1)) as running:
        client = running.client
        answer = put(client, "new%2Fa.png", 50)
        assert answer.status_code == 201, answer.text
        assert (answer.json()["image"], answer.json()["photo"]) == ("new/a.png", True)
        stored = Index.open(index).get("new/a.png")
        assert stored is not None
        described = running.service.current.retrieval.model.describe(np.array(picture(50)))
        np.testing.assert_allclose(stored.vectors, described.vectors, atol=1e-6)  # type: ignore[union-attr]
        assert running.search(encoded(picture(50)), '{"k": 1}').json()["hits"][0]["image"] == "new/a.png"
        assert client.get("/v1/photos/new%2Fa.png").headers["content-type"] == "image/jpeg"
        (kept,) = (root / "uploads").iterdir()

        given = {"boxes": [[1, 2, 30, 40], [5, 5, 50, 60]], "labels": ["cup", None], "metadata": {"price": 3.5}}
        answer = put(client, "new%2Fa.png", 51, json.dumps(given))
        assert answer.status_code == 200
        assert [r["box"] for r in answer.json()["regions"]] == [[0, 0, 120, 100], *given["boxes"]]
        assert [r["label"] for r in answer.json()["regions"]] == [None, "cup", None]
        assert answer.json()["metadata"] == {"price": 3.5}
        (replaced,) = (root / "uploads").iterdir()
        assert replaced != kept

        assert client.delete("/v1/images/new%2Fa.png").json() == {"deleted": "new/a.png"}
        assert client.get("/v1/images/new%2Fa.png").status_code == 404
        assert client.delete("/v1/images/new%2Fa.png").status_code == 404
        assert list((root / "uploads").iterdir()) == []
    assert len(Index.open(index)) == COUNT
    assert Index.open(index).verify() == []


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ('{"boxes": [[1, 2, 300, 40]]}', "inside the image"),
        ('{"boxes": [[1, 2, 30, 40]], "labels": []}', None),
        ('{"boxes": [[1, 2, 30, 40]], "labels": ["a", "b"]}', "one for each of 1 boxes"),
        ('{"metadata": {"a": [1]}}', "valid"),
        ('{"metadata": {"": 1}}', "at least 1 character"),
        ('{"path": "/etc/passwd"}', "no such key"),
    ],
)
def test_what_cannot_be_stored(index: Path, document: str, expected: str | None) -> None:
    with serving(index, Options(writable=True, decoders=1)) as running:
        answer = put(running.client, "new.png", 1, document)
        if expected is None:
            assert answer.status_code == 201, "no labels at all"
            return
        assert answer.status_code == 422, answer.text
        assert expected in answer.json()["expected"]
        broken = running.client.put("/v1/images/new.png", files={"photo": ("a.png", b"no photo")})
        assert broken.status_code == 422
        assert running.client.put("/v1/images/new.png", files={"other": b"x"}).status_code == 422
        assert running.client.get("/v1/images/new.png").status_code == 404


def test_changes_of_the_same_time_share_publications(index: Path) -> None:
    with serving(index, Options(writable=True, decoders=2)) as running:
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda n: put(running.client, f"n{n}.png", n), range(24)))
        assert {a.status_code for a in answers} == {201}
        assert len(Index.open(index)) == COUNT + 24
        assert running.service.current.retrieval.index.state.generation < 25


def test_another_writer_is_waited_for_by_the_client(index: Path) -> None:
    with serving(index, Options(writable=True, decoders=1)) as running:
        with Index.open(index).writer():
            answer = put(running.client, "new.png", 1)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert running.search(encoded(picture(0))).status_code == 200
        assert put(running.client, "new.png", 1).status_code == 201


def test_photos_that_no_image_names_are_removed_at_the_start(index: Path, tmp_path: Path) -> None:
    (tmp_path / "root" / "uploads").mkdir(parents=True)
    (tmp_path / "root" / "uploads" / "cut-off.png").write_bytes(b"x")
    (tmp_path / "root" / "mine.png").write_bytes(b"x")
    with serving(index, Options(photos=tmp_path / "root", writable=True, decoders=1)) as running:
        assert put(running.client, "new.png", 1).status_code == 201
    assert len(list((tmp_path / "root" / "uploads").iterdir())) == 1
    with serving(index, Options(photos=tmp_path / "root", writable=True, decoders=1)) as running:
        assert running.client.get("/v1/photos/new.png").status_code == 200
    assert (tmp_path / "root" / "mine.png").exists()


def started(index: Path, *options: str) -> tuple[subprocess.Popen[str], str]:
    """A service in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(Path(objemb.__file__).parents[1])}
    command = [sys.executable, "-m", "objemb", "serve", str(index), "--port", "0", "--decoders", "1", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    for line in process.stderr:
        if match := re.match(r"(http://\S+): serving", line):
            return process, match[1]
    raise AssertionError("the service did not start")


def test_what_was_answered_is_there_after_a_kill(index: Path) -> None:
    process, url = started(index, "--writable")
    done: list[str] = []

    def write(worker: int) -> None:
        with httpx.Client(base_url=url, timeout=30) as client:
            for number in range(1000):
                try:
                    answer = put(client, f"w{worker}-{number}.png", number)
                except httpx.HTTPError:
                    return
                if answer.status_code == 201:
                    done.append(f"w{worker}-{number}.png")

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
    try:
        for thread in threads:
            thread.start()
        end = time.monotonic() + 30
        while len(done) < 12 and time.monotonic() < end:
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(20)
        for thread in threads:
            thread.join(30)
    assert len(done) >= 12
    opened = Index.open(index)
    assert [image for image in done if image not in opened] == []
    assert opened.verify() == []
    with opened.writer() as writer:  # the lock ended with the process
        writer.delete(done[:1])


def test_a_stop_answers_what_was_accepted(index: Path) -> None:
    process, url = started(index, "--writable")
    request = httpx.Request("PUT", f"{url}/v1/images/last.png", files={"photo": ("a.png", encoded(picture(3)))})
    body = request.read()
    head = f"PUT /v1/images/last.png HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    head += f"Content-Type: {request.headers['content-type']}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=30) as connection:
        connection.sendall(head.encode() + body[:1000])
        time.sleep(0.5)  # accepted, but not complete
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        connection.sendall(body[1000:])
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 201"), answer
    assert process.wait(30) == 0
    assert "last.png" in Index.open(index)
