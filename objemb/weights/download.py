"""Published files of weights: from the cache of torch hub, or downloaded into it.

The cache is ``torch.hub.get_dir()/checkpoints``. A file is downloaded only if it is not there yet; without a network
connection, this fails within seconds, with an error that says which file to put where.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import re
import threading
import time
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from objemb.checks import MissingWeightsError
from objemb.disk import replacing

#: Seconds within which a server has to answer, including name resolution, proxy and redirects.
ANSWER_SECONDS = 8.0
#: Seconds without data after which a connection or a download is given up.
STALL_SECONDS = 5.0
CHUNK = 1 << 20
MEGABYTE = 1e6
#: Seconds between two progress messages of a download.
TELL_SECONDS = 10.0

logger = logging.getLogger(__name__)


def fetch(url: str, name: str | None = None) -> Path:
    """A published file: from the cache of torch hub, or downloaded into it atomically.

    Args:
        url: URL of the file.
        name: Name in the cache; by default the last part of the URL. A hash in it, as in ``resnet50-0676ba61.pth``, is
            the beginning of the file's SHA-256 and is checked.

    Raises:
        MissingWeightsError: It is not in the cache and could not be downloaded. Without a network connection, this is
            raised within seconds; the message names the URL, the place in the cache and the reason.
    """
    import torch  # here, so that settings with weights can be read without PyTorch

    file = Path(torch.hub.get_dir(), "checkpoints", name or PurePosixPath(urlsplit(url).path).name)
    if file.is_file():
        return file
    try:
        _download(url, file)
    except (OSError, HTTPException, ValueError) as error:
        raise MissingWeightsError(
            f"weights: {file.name} is not on this machine and could not be downloaded "
            f"({type(error).__name__}: {error}). Download {url} on a machine with a network connection and put it at "
            f"{file}, or pass its path as weights"
        ) from error
    return file


def _download(url: str, file: Path) -> None:
    expected = re.search(r"-([0-9a-f]{8,})\.", file.name)
    digest = hashlib.sha256()
    with _open(url) as answer:
        announced = answer.headers.get("Content-Length")
        size = "" if announced is None else f", {int(announced) / MEGABYTE:.1f} MB"
        logger.info("downloading %s to %s%s", url, file, size)
        logged = time.monotonic()
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as partial:
            with partial.open("wb") as out:
                for chunk in _received(answer):
                    out.write(chunk)
                    digest.update(chunk)
                    if time.monotonic() - logged >= TELL_SECONDS:
                        logger.info("downloading %s: %.1f MB so far", file.name, out.tell() / MEGABYTE)
                        logged = time.monotonic()
                received = out.tell()
            if announced is not None and received != int(announced):
                raise OSError(f"expected {announced} bytes, found {received}")
            if expected and not digest.hexdigest().startswith(expected[1]):
                raise OSError(f"expected a SHA-256 that begins with {expected[1]}, found {digest.hexdigest()}")


def _received(answer: HTTPResponse) -> Iterator[bytes]:
    """The chunks of a response; an error of the connection is raised as ``ConnectionError``."""
    try:
        while chunk := answer.read(CHUNK):
            yield chunk
    except OSError as error:
        raise ConnectionError(f"the connection broke: {error}") from error


def _open(url: str) -> HTTPResponse:
    """The response to a request, in limited time. It runs in a thread, because name resolution has no timeout."""
    answers: queue.SimpleQueue[HTTPResponse | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(urlopen(Request(url, headers={"User-Agent": "objemb"}), timeout=STALL_SECONDS))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=ANSWER_SECONDS)
    except queue.Empty:
        raise TimeoutError(f"no answer within {ANSWER_SECONDS:g} seconds") from None
    if isinstance(answer, Exception):
        raise answer
    return answer
