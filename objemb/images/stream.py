"""Many photos, decoded beside the network."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from objemb import checks
from objemb.images.decode import MAX_PIXELS, UnreadableImageError, read_photo
from objemb.images.names import printable
from objemb.images.sources import ImageRef, SkippedImage
from objemb.structures import Photo

Outcome = Photo | SkippedImage


def stream_photos(
    refs: Iterable[ImageRef | SkippedImage],
    *,
    workers: int = 2,
    side: int | None = None,
    max_pixels: int = MAX_PIXELS,
    prefetch: int = 16,
) -> Generator[Photo | SkippedImage, None, None]:
    """Read images in threads and give them out in the order of ``refs``.

    Threads are enough, and cheaper than processes: Pillow's decoders let go of the interpreter lock. ``refs`` are taken
    only as they are needed, and no more than ``prefetch`` images are on the way, so that memory does not depend on
    how many there are. Closing the generator (or leaving its loop by an error or Ctrl-C and dropping it) drops what was
    not begun, waits for the images being decoded, and ends the threads.

    Args:
        refs: What to read. A :class:`SkippedImage` is handed on in its place.
        workers: Number of threads; 0 reads in the caller's thread, each image when it is asked for.
        side: The longest side that is of use, as in :func:`objemb.images.decode.read_photo`.
        max_pixels: Larger images are skipped.
        prefetch: Images that are being decoded or wait decoded (3 bytes a pixel). With at least two batches the
            network never waits.

    Returns:
        A generator of photos, and of :class:`SkippedImage` for each that could not be read.

    Raises:
        ValueError: At once, for numbers that make no sense.
    """
    if workers < 0:
        raise ValueError(f"workers: expected 0 or more, found {workers}")
    for name, value in {"side": side, "max_pixels": max_pixels, "prefetch": prefetch}.items():
        if value is not None:
            checks.positive(name, value)
    if workers == 0:
        return (_read(ref, side, max_pixels) for ref in refs)
    return _read_ahead(iter(refs), workers, side, max_pixels, prefetch)


def _read_ahead(
    refs: Iterator[ImageRef | SkippedImage], workers: int, side: int | None, max_pixels: int, prefetch: int
) -> Generator[Outcome, None, None]:
    pool = ThreadPoolExecutor(workers, thread_name_prefix="objemb-decode")
    ahead: deque[Future[Outcome]] = deque()
    try:
        ahead.extend(pool.submit(_read, ref, side, max_pixels) for ref in islice(refs, prefetch))
        while ahead:
            outcome = ahead.popleft().result()
            ahead.extend(pool.submit(_read, ref, side, max_pixels) for ref in islice(refs, 1))
            yield outcome
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _read(ref: ImageRef | SkippedImage, side: int | None, max_pixels: int) -> Outcome:
    if isinstance(ref, SkippedImage):
        return ref
    try:
        return read_photo(ref.path, id=ref.id, metadata=ref.metadata, side=side, max_pixels=max_pixels)
    except UnreadableImageError as error:
        return SkippedImage(ref.id, printable(str(ref.path)), error.reason)
