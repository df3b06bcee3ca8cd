"""Many photos, decoded beside the network."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from threading import Condition

from objemb import checks
from objemb.images.decode import MAX_PIXELS, UnreadableImageError, read_photo
from objemb.images.names import printable
from objemb.images.sources import ImageRef, SkippedImage
from objemb.structures import Photo

Outcome = Photo | SkippedImage
#: What can be read, was read already, or cannot be read.
Source = ImageRef | Photo | SkippedImage
#: Bytes of memory, for each worker and once more, that photos may take while they are decoded and wait: those of a
#: photo of 30 megapixels in the decoder.
WORKER_BYTES = 2**28


def stream_photos(
    refs: Iterable[ImageRef | Photo | SkippedImage],
    *,
    workers: int = 2,
    side: int | None = None,
    max_pixels: int = MAX_PIXELS,
    prefetch: int = 16,
) -> Generator[Photo | SkippedImage, None, None]:
    """Read images in threads and give them out in the order of ``refs``.

    Threads are enough, and cheaper than processes: Pillow's decoders let go of the interpreter lock. ``refs`` are taken
    only as they are needed, and no more than ``prefetch`` images are on the way, fewer where they are large: together
    they take at most :data:`WORKER_BYTES` for each worker and once more, unless one image alone takes more. So memory
    depends neither on how many there are nor on what is in them. Closing the generator (or leaving its loop by an error
    or Ctrl-C and dropping it) drops what was not begun, waits for the images being decoded, and ends the threads.

    Args:
        refs: What to read. A :class:`SkippedImage` and a photo are handed on in their places.
        workers: Number of threads; 0 reads in the caller's thread, each image when it is asked for.
        side: The longest side at which photos are used, as in :func:`objemb.images.decode.read_photo`.
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
    read = partial(_read, side=side, max_pixels=max_pixels)
    if workers == 0:
        return (read(ref, admit=lambda most: None) for ref in refs)
    return _read_ahead(iter(refs), read, workers, prefetch)


def _read_ahead(
    refs: Iterator[Source], read: Callable[..., Outcome], workers: int, prefetch: int
) -> Generator[Outcome, None, None]:
    pool = ThreadPoolExecutor(workers, thread_name_prefix="objemb-decode")
    memory = _Memory((workers + 1) * WORKER_BYTES)
    ahead: deque[Future[Outcome]] = deque()
    numbered = enumerate(refs)
    try:
        ahead.extend(pool.submit(memory.held, n, read, ref) for n, ref in islice(numbered, prefetch))
        while ahead:
            outcome = ahead.popleft().result()
            memory.free(outcome)
            ahead.extend(pool.submit(memory.held, n, read, ref) for n, ref in islice(numbered, 1))
            yield outcome
    finally:
        memory.close()
        pool.shutdown(wait=True, cancel_futures=True)


class _Closed(Exception):
    """Nobody waits for the photo any more."""


class _Memory:
    """Lets images be decoded in their order while what is decoded and not taken yet fits into memory.

    In their order, because the one that is waited for must never wait for one behind it.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._bytes = 0
        self._next = 0
        self._closed = False
        self._change = Condition()

    def held(self, number: int, read: Callable[..., Outcome], ref: Source) -> Outcome:
        """Read an image once there is room for it; what it takes stays counted until it is freed."""
        admitted = 0

        def admit(most: int) -> None:
            nonlocal admitted
            with self._change:
                self._change.wait_for(lambda: self._closed or self._has_room(number, most))
                if self._closed:
                    raise _Closed
                admitted, self._bytes, self._next = most, self._bytes + most, number + 1
                self._change.notify_all()

        try:
            outcome = read(ref, admit=admit)
        except _Closed:
            return SkippedImage(ref.id, "", "nobody waits for it")
        taken = _bytes_of(outcome)
        if admitted == 0:  # nothing was decoded, but its turn has to come and go
            try:
                admit(taken)
            except _Closed:
                return outcome
            admitted = taken
        with self._change:
            self._bytes += taken - admitted
            self._change.notify_all()
        return outcome

    def free(self, outcome: Outcome) -> None:
        """The outcome was taken."""
        with self._change:
            self._bytes -= _bytes_of(outcome)
            self._change.notify_all()

    def close(self) -> None:
        """Let those that wait give up."""
        with self._change:
            self._closed = True
            self._change.notify_all()

    def _has_room(self, number: int, most: int) -> bool:
        return number == self._next and (self._bytes == 0 or self._bytes + most <= self._most)


def _bytes_of(outcome: Outcome) -> int:
    return outcome.pixels.nbytes if isinstance(outcome, Photo) else 0


def _read(ref: Source, *, side: int | None, max_pixels: int, admit: Callable[[int], None]) -> Outcome:
    if not isinstance(ref, ImageRef):
        return ref
    try:
        return read_photo(ref.path, id=ref.id, metadata=ref.metadata, side=side, max_pixels=max_pixels, admit=admit)
    except UnreadableImageError as error:
        return SkippedImage(ref.id, printable(str(ref.path)), error.reason)
    except MemoryError:
        return SkippedImage(ref.id, printable(str(ref.path)), "cannot be read: not enough memory")
