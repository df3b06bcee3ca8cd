"""A compact map from image ids to internal numbers, for millions of images."""

from __future__ import annotations

import hashlib

import numpy as np

from objemb.index.storage.snapshot import Snapshot
from objemb.types import BytesArray, Int64Array

#: Maximum number of changes held in a dict before the arrays are rebuilt.
OVERLAY = 65_536
_REMOVED = -1


class IdMap:
    """A map from image id to internal number in 24 bytes per image.

    Ids are stored as 128-bit BLAKE2b digests; the probability of a collision among a billion images is 1e-21.
    """

    def __init__(self) -> None:
        self._keys = np.zeros(0, "S16")  # ascending
        self._numbers = np.zeros(0, np.int64)
        self._overlay: dict[bytes, int] = {}

    @staticmethod
    def of(snapshot: Snapshot) -> IdMap:
        """The map of all live images of a state."""
        keys, numbers = [np.zeros(0, "S16")], [np.zeros(0, np.int64)]
        for segment, live in zip(snapshot.segments, snapshot.live, strict=True):
            digests = np.array([_key(i) for i in segment.image_ids()], dtype="S16")
            keys.append(digests if live is None else digests[live])
            numbers.append(segment.numbers if live is None else segment.numbers[live])
        made = IdMap()
        made._replace(np.concatenate(keys), np.concatenate(numbers))
        return made

    def get(self, image: bytes) -> int | None:
        """The number of an image, or None."""
        return self._find(_key(image))

    def put(self, image: bytes, number: int) -> int | None:
        """Set the number of an image; returns its previous number, or None."""
        return self._set(_key(image), number)

    def remove(self, image: bytes) -> int | None:
        """Remove an image; returns its number, or None if it is not in the map."""
        return self._set(_key(image), _REMOVED)

    def duplicates(self) -> int:
        """Number of ids that occur more than once."""
        return int((self._keys[1:] == self._keys[:-1]).sum())

    def _set(self, key: bytes, number: int) -> int | None:
        before = self._find(key)
        self._overlay[key] = number
        if len(self._overlay) >= OVERLAY:
            self._merge()
        return before

    def _find(self, key: bytes) -> int | None:
        number = self._overlay.get(key)
        if number is None:
            position = int(np.searchsorted(self._keys, np.array(key, "S16")))
            if position < len(self._keys) and self._keys[position] == key:
                return int(self._numbers[position])
        return None if number == _REMOVED else number

    def _merge(self) -> None:
        """Move the overlay into the arrays."""
        keys = np.array(list(self._overlay), dtype="S16")
        numbers = np.array(list(self._overlay.values()), dtype=np.int64)
        kept = ~np.isin(self._keys, keys)
        there = numbers != _REMOVED
        self._replace(
            np.concatenate([self._keys[kept], keys[there]]), np.concatenate([self._numbers[kept], numbers[there]])
        )
        self._overlay = {}

    def _replace(self, keys: BytesArray, numbers: Int64Array) -> None:
        order = np.argsort(keys, kind="stable")
        self._keys, self._numbers = keys[order], numbers[order]


def _key(image: bytes) -> bytes:
    # NumPy drops trailing zeros of byte strings; without them a digest equals itself after the round trip
    return hashlib.blake2b(image, digest_size=16).digest().rstrip(b"\0")
