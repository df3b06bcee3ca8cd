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

#: Photos that are decoded ahead: the network never waits, and memory does not depend on how many photos there are.
PREFETCHED_BATCHES = 2
#: Bytes of pixels above which a batch is closed early.
BATCH_BYTES = 2**28

#: A path or an image, several, a batch of arrays, or images that were found already.
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
    """What becomes of photos in batches, in order; what cannot be read or described is handed to ``on_skip``.

    Args:
        sources: See :meth:`objemb.models.Model.stream`.
        process: Makes a result of each photo of a batch.
        side: The longest side at which photos are looked at.
        batch_size: Photos at once.
        workers: Decoding threads.
        max_pixels: Larger photos are skipped.
        on_skip: Called with what is skipped; by default a warning is logged.
        works: Puts a photo that is surely good through the networks. Where that fails too, what failed before was not
            the fault of its photo.

    Raises:
        Exception: What ``process`` raises where the networks do not work at all.
    """
    batch: list[Photo] = []
    paths: dict[str, str] = {}
    size = batch_size
    on_skip = on_skip or _log_skipped
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


def _log_skipped(skipped: SkippedImage) -> None:
    log.warning("skipped %s: %s", skipped.path or skipped.id, skipped.reason)


def as_refs(
    sources: Sources, side: int | None = None, max_pixels: int = MAX_PIXELS
) -> Iterator[ImageRef | Photo | SkippedImage]:
    """Images of paths (folders, lists, single files), behind the images that were found or decoded already.

    An image in memory has its number among the sources as its id, a :class:`Photo` its own.

    Raises:
        TypeError, ValueError: Something that is no image; the message has its number.
    """
    items: Iterable[ImageLike | ImageRef | SkippedImage]
    items = [sources] if _is_one(sources) else sources  # type: ignore[list-item, assignment]  # told apart at run time
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
    """Whether sources are a single one, although it may be iterated over; arrays of four dimensions are batches."""
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
    """Note the path of each image while it is on its way, for the record of one that cannot be described."""
    for ref in refs:
        if not isinstance(ref, Photo):
            paths[ref.id] = str(ref.path)
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

    A batch that fails is tried again in halves, so that memory is found where there is any, and a single image that
    fails is skipped while its neighbours are described. If not for memory, then only where another photo succeeds:
    networks that do not work would otherwise make every photo a bad one.
    """
    waiting = [photos[i : i + size] for i in range(0, len(photos), size)]
    while waiting:
        part = waiting.pop(0)
        try:
            results = process(part)
        except (ImportError, KeyboardInterrupt, NotFittedError, NotImplementedError):  # it is not the photo
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
    """Whether a photo that is surely good can be described: grey levels from dark to light."""
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8), (3, 256, 256)).copy()
    try:
        works(Photo("a photo to try the network on", ramp, (256, 256)))
    except Exception as error:
        log.debug("a grey photo cannot be described either: %s", error)
        return False
    return True


def _is_out_of_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")  # where it was never imported, its memory is not what is missing
    kinds = (MemoryError,) if torch is None else (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or _says_out_of_memory(str(error))


def _says_out_of_memory(text: str) -> bool:
    """Neither PyTorch nor other runtimes have a type of their own for the memory of the processor."""
    return "alloc" in text and "memory" in text


def _free_memory() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
