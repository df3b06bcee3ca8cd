"""A cache for the vectors of a frozen teacher."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from objemb import checks
from objemb.disk import write_whole
from objemb.structures import Photo, Regions

log = logging.getLogger(__name__)

VECTORS = "vectors"


class VectorCache:
    """Vectors by photo and boxes, in memory and optionally in a folder as well.

    An entry holds *all* boxes that are described together in one photo. Boxes are not cached one by one, because the
    last bits of a vector depend on the other boxes of its batch, and a resumed run must read the same vectors as an
    uninterrupted one.

    The key of an entry covers the photo's name, its pixels, its size, the boxes and the teacher, so another photo under
    an old name is a miss. On disk an entry is a safetensors file, written atomically, so that several processes may
    write it. A damaged file counts as absent. If the folder cannot be written, the cache logs a warning once and
    continues in memory.

    Args:
        owner: Fingerprint of the teacher that the vectors come from.
        dim: Length D of the vectors.
        folder: Folder of the entries, None to keep them in memory only.
        capacity: Maximum number of vectors in memory; the least recently used are dropped first.
    """

    def __init__(self, owner: str, dim: int, folder: str | Path | None = None, *, capacity: int = 100_000) -> None:
        self.owner, self.dim = owner, dim
        self.folder = None if folder is None else Path(folder) / owner[:16]
        self.capacity = checks.whole("capacity", capacity)
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._count = 0

    def get(self, photo: Photo, regions: Regions) -> Tensor | None:
        """The vectors of the boxes, float32 ``(N, D)``, or None if they are not cached."""
        key = self._key(photo, regions)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        vectors = self._read(key, len(regions))
        if vectors is not None:
            self._keep(key, vectors)
        return vectors

    def put(self, photo: Photo, regions: Regions, vectors: Tensor) -> None:
        """Store the vectors of the boxes, ``(N, D)``."""
        checks.shape("vectors", vectors, (len(regions), self.dim))
        key, kept = self._key(photo, regions), vectors.detach().cpu().float().contiguous()
        self._keep(key, kept)
        self._write(key, kept)

    def _key(self, photo: Photo, regions: Regions) -> str:
        digest = hashlib.blake2b(repr((self.owner, photo.id, photo.size)).encode(), digest_size=20)
        for array in (photo.pixels, regions.boxes):
            digest.update(repr(array.shape).encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def _keep(self, key: str, vectors: Tensor) -> None:
        replaced = self._kept.pop(key, None)
        self._count += len(vectors) - (0 if replaced is None else len(replaced))
        self._kept[key] = vectors
        while self._count > self.capacity and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._count -= len(dropped)

    def _file(self, folder: Path, key: str) -> Path:
        return folder / key[:2] / f"{key[2:]}.safetensors"  # some file systems are slow with many files in a folder

    def _read(self, key: str, count: int) -> Tensor | None:
        if self.folder is None:
            return None
        try:
            vectors = load(self._file(self.folder, key).read_bytes())[VECTORS]
        except (OSError, KeyError, SafetensorError):
            return None
        return vectors if vectors.shape == (count, self.dim) and vectors.dtype == torch.float32 else None

    def _write(self, key: str, vectors: Tensor) -> None:
        if self.folder is None:
            return
        file = self._file(self.folder, key)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, save({VECTORS: vectors}))
        except OSError as error:
            log.warning("%s: caching in memory only: %s", self.folder, error)
            self.folder = None
