"""What a request may ask for, and how much the service holds at a time."""

from __future__ import annotations

from dataclasses import dataclass

from objemb import checks
from objemb.images.decode import MAX_PIXELS

MEBIBYTE = 2**20

#: Photos in one request; boxes of one view; views, and counter-examples, of one query.
MAX_UPLOADS, MAX_BOXES, MAX_VIEWS = 32, 100, 16
#: Photos in one answer; images on one page of the library.
MAX_HITS, MAX_LISTED = 1000, 500
#: Characters of a filter; of an id, a file name, a label and a value of the metadata.
MAX_FILTER, MAX_TEXT = 2000, 1000
#: Columns of the metadata of one image; re-rankers of one query.
MAX_COLUMNS, MAX_STEPS = 100, 4


@dataclass(frozen=True)
class Limits:
    """Limits of the service.

    Attributes:
        body_bytes: Bytes of the body of a request.
        held_bytes: Bytes of all bodies that are held at a time; further requests are told to come again.
        pixels: Pixels of a photo.
        queue: Requests with photos that are being answered or wait for it; further ones are told to come again.
        batch: Queries that share a pass over the index.
        passes: Queries that share a forward pass.
        window: Seconds that a query waits for others that are being decoded or described.
        request_seconds: Seconds from the headers of a request to its answer.
        idle_seconds: Seconds that a new connection may wait before it sends anything: of many clients that come at the
            same time on a busy machine, the last ones connect long before they get to send.
        header_seconds: Seconds from the first byte of the head of a request to its last one.
        body_seconds: Seconds in which the body of a request has to arrive, beside one for each of ``body_rate`` bytes
            that have come.
        body_rate: Bytes a second, as of a slow mobile connection.
        decode_seconds: Seconds of processor time that decoding a photo may take, where the system measures them (not
            on Windows); the seconds of the request hold in any case.
        connections: Connections that are open at a time.
        failures: Wrong tokens of one address in a minute, after which it has to wait.
        thumbnails_bytes: Bytes of thumbnails that are kept in memory.
    """

    body_bytes: int = 32 * MEBIBYTE
    held_bytes: int = 512 * MEBIBYTE
    pixels: int = MAX_PIXELS
    queue: int = 256
    batch: int = 16
    passes: int = 8
    window: float = 0.004
    request_seconds: float = 30.0
    idle_seconds: float = 60.0
    body_seconds: float = 60.0
    body_rate: int = 64 * 1024
    header_seconds: float = 10.0
    decode_seconds: float = 10.0
    connections: int = 2000
    failures: int = 10
    thumbnails_bytes: int = 64 * MEBIBYTE

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            checks.positive(f"Limits.{name}", value)
