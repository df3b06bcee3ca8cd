"""Describing many photos: decoding beside the network, and one broken image never stops the job."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np

from objemb.checks import NotFittedError
from objemb.images.decode import MAX_PIXELS, UnreadableImageError
from objemb.images.inputs import ImageLike, as_photo
from objemb.images.sources import ImageRef, SkippedImage, find_images
from objemb.images.stream import stream_photos
from objemb.structures import Photo
from objemb.structures.fields import is_tensor

log = logging.getLogger(__name__)

#: Number of batches decoded ahead, so that the network does not wait and memory is bounded.
PREFETCHED_BATCHES = 2
#: Bytes of pixels from which a batch is processed although it is not full.
BATCH_BYTES = 2**28

#: A path or an image, several of them, a batch of arrays, or references to images.
Sources: TypeAlias = "ImageLike | ImageRef | SkippedImage | Iterable[ImageLike | ImageRef | SkippedImage]"
T = TypeVar("T")


def process_stream(
    sources: Sources,
    process: Callable[[Sequence[Photo]], list[T]],
    *,
    side: int | None,
    batch_size: int,
    workers: int,
    max_pixels: int,
    on_skip: Callable[[SkippedImage], None] | None,
    works: Callable[[Photo], object],
) -> Iterator[T]:
    """Process photos in batches, in order; photos that cannot be read or processed are passed to ``on_skip``.

    Args:
        sources: See :meth:`objemb.models.Model.stream`.
        process: Computes one result per photo of a batch.
        side: The longest side in pixels at which photos are used, None for full resolution.
        batch_size: Photos per batch.
        workers: Number of decoding threads.
        max_pixels: Photos with more pixels are skipped.
        on_skip: Called with each skipped photo; by default a warning is logged.
        works: Runs the networks on a valid test photo. If that fails too, an earlier failure was not caused by its
            photo.

    Yields:
        The results, in the order of the photos.

    Raises:
        Exception: The error of ``process``, if the networks fail for the test photo too.
    """
    batch: list[Photo] = []
    paths: dict[str, str] = {}
    size = batch_size
    on_skip = on_skip or log_skipped
    refs = _remember(as_refs(sources, side, max_pixels), paths)
    ahead = PREFETCHED_BATCHES * batch_size
    for photo in stream_photos(refs, workers=workers, side=side, max_pixels=max_pixels, prefetch=ahead):
        if isinstance(photo, SkippedImage):
            paths.pop(photo.id, None)
            on_skip(photo)
            continue
        batch.append(photo)
        if len(batch) >= size or sum(p.pixels.nbytes for p in batch) >= BATCH_BYTES:
            size = yield from _process_all(batch, process, size, paths, on_skip, works)
            batch = []
    if batch:
        yield from _process_all(batch, process, size, paths, on_skip, works)


def log_skipped(skipped: SkippedImage) -> None:
    """Log a warning that a photo was left out, and why."""
    log.warning("skipped %s: %s", skipped.path or skipped.id, skipped.reason)


def as_refs(
    sources: Sources, side: int | None = None, max_pixels: int = MAX_PIXELS
) -> Iterator[ImageRef | Photo | SkippedImage]:
    """The images of all sources: first references and images in memory, then those found at paths.

    The id of an image in memory is its number among the sources; a :class:`Photo` keeps its id.

    Raises:
        TypeError, ValueError: A source is not an image; the message has its number.
    """
    items: Iterable[ImageLike | ImageRef | SkippedImage]
    items = [sources] if _is_one(sources) else sources  # type: ignore[list-item, assignment]  # checked at run time
    waiting: list[str | Path] = []
    for number, item in enumerate(items):
        if isinstance(item, (str, Path)):
            waiting.append(item)
        elif isinstance(item, (ImageRef, Photo, SkippedImage)):
            yield item
        else:
            yield _in_memory(item, number, side, max_pixels)
    if waiting:
        yield from find_images(waiting)


def _is_one(sources: Sources) -> bool:
    """Whether this is a single source, even if it is iterable; arrays of four dimensions are batches."""
    if isinstance(sources, np.ndarray):
        return sources.ndim < 4 and sources.dtype.kind in "biuf"
    if is_tensor(sources):
        return sources.ndim < 4
    return (
        isinstance(sources, (str, Path, bytes, bytearray, memoryview, ImageRef, Photo, SkippedImage))
        or hasattr(sources, "read")
        or not hasattr(sources, "__iter__")
    )


def _in_memory(item: ImageLike, number: int, side: int | None, max_pixels: int) -> Photo | SkippedImage:
    try:
        return replace(as_photo(item, side, max_pixels=max_pixels), id=str(number))
    except UnreadableImageError as error:
        return SkippedImage(str(number), "", error.reason)
    except (TypeError, ValueError) as error:
        raise type(error)(f"sources[{number}]: {error}") from error


def _remember(
    refs: Iterable[ImageRef | Photo | SkippedImage], paths: dict[str, str]
) -> Iterator[ImageRef | Photo | SkippedImage]:
    """Record the path of each image while it is processed, for the report if it cannot be described."""
    for ref in refs:
        if not isinstance(ref, Photo):
            paths[ref.id] = ref.place if isinstance(ref, ImageRef) else ref.path
        yield ref


def _process_all(
    photos: list[Photo],
    process: Callable[[Sequence[Photo]], list[T]],
    size: int,
    paths: dict[str, str],
    on_skip: Callable[[SkippedImage], None],
    works: Callable[[Photo], object],
) -> Generator[T, None, int]:
    """Process a batch in parts of at most ``size``; returns the size that fits into memory.

    A batch that fails is tried again in halves, which need less memory and isolate a photo that fails: it is skipped,
    and the others are processed. A photo that fails for a reason other than memory is skipped only if the test photo
    succeeds; otherwise networks that never work would lead to skipping every photo.
    """
    waiting = [photos[i : i + size] for i in range(0, len(photos), size)]
    while waiting:
        part = waiting.pop(0)
        try:
            results = process(part)
        except (ImportError, KeyboardInterrupt, NotFittedError, NotImplementedError):  # not caused by the photo
            raise
        except Exception as error:
            memory = _is_out_of_memory(error)
            if len(part) == 1:
                if not memory and not _succeeds(works):
                    raise
                reason = f"cannot be described: {type(error).__name__}: {error}"
                on_skip(SkippedImage(id=part[0].id, path=paths.pop(part[0].id, part[0].id), reason=reason))
                continue
            half = (len(part) + 1) // 2
            waiting[:0] = [part[:half], part[half:]]
            if memory:
                size = min(size, half)
                log.warning("out of memory with %d photos at once, going on with %d", len(part), half)
                _free_memory()
            continue
        for photo in part:
            paths.pop(photo.id, None)
        yield from results
    return size


def _succeeds(works: Callable[[Photo], object]) -> bool:
    """Whether the networks process a valid test photo, a ramp of grey levels."""
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8), (3, 256, 256)).copy()
    try:
        works(Photo("a photo to try the network on", ramp, (256, 256)))
    except Exception as error:
        log.debug("a grey photo cannot be described either: %s", error)
        return False
    return True


def _is_out_of_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")  # if it was never imported, the error is not about its memory
    kinds = (MemoryError,) if torch is None else (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or _says_out_of_memory(str(error))


def _says_out_of_memory(text: str) -> bool:
    """Whether a message is about memory: PyTorch and other runtimes have no type of error for that of the CPU."""
    return "alloc" in text and "memory" in text


def _free_memory() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
