"""Decodes many photos in threads while the network runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from threading import Condition

from objemb import checks
from objemb.images.decode import MAX_PIXELS, UnreadableImageError, read_photo
from objemb.images.object_stores import object_bytes
from objemb.images.sources import ImageRef, SkippedImage
from objemb.structures import Photo

Outcome = Photo | SkippedImage
#: An image to be read, one that has been read, or one that cannot be read.
Source = ImageRef | Photo | SkippedImage
#: Photos that are being decoded or have been decoded may take this many bytes for each worker plus one: what the
#: decoder needs for a photo of 30 megapixels.
WORKER_BYTES = 2**28


def stream_photos(
    refs: Iterable[ImageRef | Photo | SkippedImage],
    *,
    workers: int = 2,
    side: int | None = None,
    max_pixels: int = MAX_PIXELS,
    prefetch: int = 16,
) -> Generator[Photo | SkippedImage, None, None]:
    """Read images in threads, and yield them in the order of ``refs``.

    Threads suffice, and cost less than processes, because Pillow's decoders release the interpreter lock. ``refs`` is
    consumed only as needed. At most ``prefetch`` images are being decoded or wait to be consumed, fewer if they are
    large: together they take at most :data:`WORKER_BYTES` for each worker plus one, unless a single image takes more.
    Memory therefore depends neither on the number nor on the size of the images. Closing the generator (also by leaving
    its loop through an error or Ctrl-C) discards images that were not begun, waits for those being decoded, and ends
    the threads.

    Args:
        refs: The images. Photos and :class:`SkippedImage` are yielded unchanged.
        workers: Number of threads; 0 reads each image in the caller's thread when it is requested.
        side: The longest side at which photos are used, as in :func:`objemb.images.decode.read_photo`.
        max_pixels: Maximum number of pixels; larger images are skipped.
        prefetch: Maximum number of images that are being decoded or wait to be consumed (3 bytes per pixel). Two
            batches are enough to keep the network busy.

    Returns:
        A generator of photos, with a :class:`SkippedImage` in place of each that could not be read.

    Raises:
        ValueError: A number is out of range; raised by the call itself.
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
    """The photo is no longer needed."""


class _Memory:
    """Admits images to decoding while they and those that were decoded, but not consumed yet, fit into memory.

    Images are admitted in order, because the one that is consumed next must not wait for a later one.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._bytes = 0
        self._next = 0
        self._closed = False
        self._change = Condition()

    def held(self, number: int, read: Callable[..., Outcome], ref: Source) -> Outcome:
        """Read an image once there is memory for it; its memory is counted until :meth:`free` is called."""
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
            return SkippedImage(ref.id, "", "no longer needed")
        taken = _bytes_of(outcome)
        if admitted == 0:  # nothing was decoded, but later images wait for its turn
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
        """Release the memory of an outcome that was consumed."""
        with self._change:
            self._bytes -= _bytes_of(outcome)
            self._change.notify_all()

    def close(self) -> None:
        """Make all waiting threads give up."""
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
        source = object_bytes(ref.address, id=ref.id, max_pixels=max_pixels) if ref.address else ref.path
        return read_photo(source, id=ref.id, metadata=ref.metadata, side=side, max_pixels=max_pixels, admit=admit)
    except UnreadableImageError as error:
        return SkippedImage(ref.id, ref.place, error.reason)
    except MemoryError:
        return SkippedImage(ref.id, ref.place, "cannot be read: not enough memory")
