"""Describing many photos: decoding beside the network, and one broken image never stops the job."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar

import torch

from objemb.checks import NotFittedError
from objemb.images.sources import ImageRef, SkippedImage, find_images
from objemb.images.stream import stream_photos
from objemb.structures import Photo

log = logging.getLogger(__name__)

#: Photos that are decoded ahead: the network never waits, and memory does not depend on how many photos there are.
PREFETCHED_BATCHES = 2

#: A path, several, or images that were found already.
Sources: TypeAlias = str | Path | Iterable[str | Path | ImageRef | SkippedImage]
T = TypeVar("T")


def process_stream(
    sources: Sources,
    process: Callable[[Sequence[Photo]], list[T]],
    *,
    side: int | None,
    batch_size: int,
    workers: int,
    max_pixels: int,
    on_skip: Callable[[SkippedImage], None],
) -> Iterator[T]:
    """What becomes of photos in batches, in order; what cannot be read or described is handed to ``on_skip``."""
    batch: list[Photo] = []
    paths: dict[str, str] = {}
    size = batch_size
    refs = _remember(as_refs(sources), paths)
    ahead = PREFETCHED_BATCHES * batch_size
    for photo in stream_photos(refs, workers=workers, side=side, max_pixels=max_pixels, prefetch=ahead):
        if isinstance(photo, SkippedImage):
            paths.pop(photo.id, None)
            on_skip(photo)
            continue
        batch.append(photo)
        if len(batch) >= size:
            size = yield from _process_all(batch, process, size, paths, on_skip)
            batch = []
    if batch:
        yield from _process_all(batch, process, size, paths, on_skip)


def as_refs(sources: Sources) -> Iterator[ImageRef | SkippedImage]:
    """Images of paths (folders, lists, single files), and images that were found already as they are."""
    items = [sources] if isinstance(sources, (str, Path)) else sources
    waiting: list[str | Path] = []
    for item in items:
        if isinstance(item, (str, Path)):
            waiting.append(item)
        else:
            yield item
    if waiting:
        yield from find_images(waiting)


def _remember(refs: Iterable[ImageRef | SkippedImage], paths: dict[str, str]) -> Iterator[ImageRef | SkippedImage]:
    """Note the path of each image while it is on its way, for the record of one that cannot be described."""
    for ref in refs:
        paths[ref.id] = str(ref.path)
        yield ref


def _process_all(
    photos: list[Photo],
    process: Callable[[Sequence[Photo]], list[T]],
    size: int,
    paths: dict[str, str],
    on_skip: Callable[[SkippedImage], None],
) -> Generator[T, None, int]:
    """Process a batch in parts of at most ``size``; returns the size that fits into memory.

    A batch that fails is tried again in halves, so that memory is found where there is any, and a single image that
    fails is skipped while its neighbours are described.
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


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or _says_out_of_memory(str(error))


def _says_out_of_memory(text: str) -> bool:
    """PyTorch has no type of its own for the memory of the processor."""
    return "alloc" in text and "memory" in text


def _free_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
