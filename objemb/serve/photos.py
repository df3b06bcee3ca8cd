"""Where the photos of indexed images lie, and their thumbnails."""

from __future__ import annotations

import hashlib
import json
import stat
from collections import OrderedDict
from pathlib import Path, PurePosixPath
from threading import Lock

from objemb.images.decode import photo_bytes
from objemb.index.collection import ImageCollection
from objemb.search.indexing import indexed_photo, photo_path
from objemb.search.retrieval import Retrieval
from objemb.serve.decoding import Decoders
from objemb.serve.limits import Limits
from objemb.serve.problems import Problem

#: Longest sides of thumbnails; what is asked for is rounded up to one of them, so that few are made of a photo.
SIDES = (96, 160, 320, 640, 1280, 2048)


class IndexedPhotos:
    """Finds the photos of indexed images by their ids. No path comes from a request.

    Args:
        root: Folder in which all photos lie; None for the places that are recorded in the index. The photo of an image
            is the recorded one if it lies in the folder, else the one whose path below the folder is the id of the
            image, if its size in bytes is the recorded one.
    """

    def __init__(self, root: Path | None) -> None:
        self._root = None if root is None else root.resolve()

    def path_of(self, index: ImageCollection, image: str) -> Path | None:
        """The photo of an indexed image; None if it is gone, has changed, or lies elsewhere.

        Raises:
            Problem: No image of this id is in the index.
        """
        stamp = stamp_of(index, image)
        recorded = indexed_photo(stamp)
        if self._root is None:
            return recorded
        if recorded is not None and recorded.resolve().is_relative_to(self._root):
            return recorded
        parts = PurePosixPath(image.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or "\0" in image:
            return None
        try:
            path = (self._root / parts).resolve()
            status = path.stat()
        except (OSError, ValueError, RuntimeError):  # no such file, no valid name, a loop of links
            return None
        same = stat.S_ISREG(status.st_mode) and status.st_size == _recorded_size(stamp)
        return path if same and path.is_relative_to(self._root) else None

    def content_of(self, index: ImageCollection, image: str, max_pixels: int) -> bytes:
        """The encoded photo of an indexed image.

        Raises:
            Problem: No image of this id is in the index, or its photo is gone.
            UnreadableImageError: The file cannot be read.
        """
        path = self.path_of(index, image)
        if path is None:
            raise Problem(404, "photo: expected the photo that was indexed, found that it is gone or has changed")
        return photo_bytes(path, id=image, max_pixels=max_pixels)


def stamp_of(index: ImageCollection, image: str) -> str | None:
    """The stamp of an indexed image. Raises :class:`Problem` if no image of this id is in the index."""
    try:
        return index.stamp(image)
    except (KeyError, UnicodeEncodeError):
        raise not_indexed() from None


def not_indexed() -> Problem:
    """The problem of a request for an image that is not there."""
    return Problem(404, "image: expected the id of an indexed image, found one that is not in the index")


class Thumbnails:
    """Makes thumbnails, and keeps the last ones in memory.

    Args:
        photos: Where the photos lie.
        decoders: What decodes them.
        limits: ``pixels`` and ``thumbnails_bytes`` of these.
    """

    def __init__(self, photos: IndexedPhotos, decoders: Decoders, limits: Limits) -> None:
        self._photos = photos
        self._decoders = decoders
        self._limits = limits
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def mark(self, retrieval: Retrieval, image: str, side: int) -> str:
        """A text that changes with the thumbnail of an image: the tag that browsers compare.

        Raises:
            Problem: No image of this id is in the index.
        """
        stamp = stamp_of(retrieval.index, image)
        text = json.dumps([image, stamp, _side(side), photo_path(stamp) is None and retrieval.index.generation])
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def thumbnail(self, retrieval: Retrieval, image: str, side: int) -> bytes:
        """A JPEG file of an indexed image, whose longest side is at most ``side`` rounded up to one of :data:`SIDES`.

        Raises:
            Problem: No image of this id is in the index, or its photo is gone.
            UnreadableImageError: The photo cannot be read.
        """
        key = self.mark(retrieval, image, side)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        content = self._photos.content_of(retrieval.index, image, self._limits.pixels)
        file = self._decoders.thumbnail(content, image, _side(side))
        with self._lock:
            if key not in self._kept:
                self._kept[key] = file
                self._bytes += len(file)
            while self._bytes > self._limits.thumbnails_bytes:
                self._bytes -= len(self._kept.popitem(last=False)[1])
        return file


def _side(asked: int) -> int:
    return next((side for side in SIDES if side >= asked), SIDES[-1])


def _recorded_size(stamp: str | None) -> int | None:
    try:
        size = json.loads(stamp or "")["size"]
    except (ValueError, TypeError, KeyError):
        return None
    return size if isinstance(size, int) else None
