"""The program of a process that decodes photos: what is in them can stop or crash this process, but no other.

A photo may take ``seconds`` of processor time; then SIGPROF ends the process. Time in which the process waits for a
processor does not count, so that no photo is refused because the machine is busy.

Requests come on stdin, answers go to stdout. Each is the length of a JSON header (4 bytes, big-endian), the header, and
``bytes`` further bytes as the header says. Nothing is pickled.
"""

from __future__ import annotations

import io
import json
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

from PIL import Image

from objemb.images.decode import UnreadableImageError, read_photo
from objemb.visualize.pictures import shrunk

#: Bytes of address space beside those of the largest photo.
SPACE = 4 * 2**30
#: Bytes of address space per allowed pixel: of the file, of Pillow's image, of the photo and of a copy.
SPACE_PER_PIXEL = 24
JPEG_QUALITY = 85
HEADER_LENGTH = 4


def send(stream: BinaryIO, header: Mapping[str, object], content: bytes | memoryview = b"") -> None:
    """Write a message."""
    text = json.dumps({**header, "bytes": len(content)}).encode()
    stream.write(len(text).to_bytes(HEADER_LENGTH, "big") + text)
    stream.write(content)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], bytes]:
    """Read a message.

    Raises:
        EOFError: The stream has ended.
    """
    header: dict[str, Any] = json.loads(_exactly(stream, int.from_bytes(_exactly(stream, HEADER_LENGTH), "big")))
    return header, _exactly(stream, header["bytes"])


def _exactly(stream: BinaryIO, count: int) -> bytes:
    content = stream.read(count)
    if len(content) < count:
        raise EOFError(f"expected {count} bytes, found {len(content)}")
    return content


def answer(request: Mapping[str, Any], content: bytes) -> tuple[dict[str, object], bytes]:
    """The answer to one request: a decoded photo, a thumbnail, or the reason why there is none."""
    try:
        photo = read_photo(
            content, id="image", side=request["side"], part=request["part"], max_pixels=request["max_pixels"]
        )
    except UnreadableImageError as error:
        return {"refused": error.reason}, b""
    about: dict[str, object] = {"size": photo.size, "shape": photo.pixels.shape, "orientation": photo.orientation}
    if not request["thumbnail"]:
        return about, photo.pixels.tobytes()
    small, file = shrunk(Image.fromarray(photo.interleaved()), request["side"]), io.BytesIO()
    small.save(file, "JPEG", quality=JPEG_QUALITY)
    return about, file.getvalue()


def confine(max_pixels: int) -> None:
    """Limit the memory of this process, where the system can."""
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = SPACE + SPACE_PER_PIXEL * max_pixels
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """A block that ends the process with SIGPROF after so much processor time, where the system has such timers."""
    if sys.platform == "win32":
        yield
        return
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def main() -> None:
    """Answer requests until stdin ends."""
    confine(int(sys.argv[1]))
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # what a library prints must not get between the answers
    send(answers, {"ready": True})
    while True:
        try:
            request, content = receive(requests)
        except EOFError:
            return
        with limited(request["seconds"]):
            answered = answer(request, content)
        send(answers, *answered)


if __name__ == "__main__":
    main()
