"""A compact map from image ids to internal numbers, for millions of images."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa

from objemb.index.storage.segment import Segment
from objemb.index.storage.snapshot import Snapshot
from objemb.types import BoolArray, BytesArray, Int64Array

#: Maximum number of changes held in a dict before the arrays are rebuilt.
OVERLAY = 65_536
_REMOVED = -1


class IdMap:
    """A map from image id to internal number in 24 bytes per image, which collects the numbers that are replaced.

    Ids are stored as 128-bit BLAKE2b digests; the probability of a collision among a billion images is 1e-21. Those of
    a published state are digested when one of them is asked for, or many images have been added; until then, what
    added images replace is looked up for all of them at once, so that adding a few costs little in a large index.
    """

    def __init__(self) -> None:
        self._keys = np.zeros(0, "S16")  # ascending
        self._numbers = np.zeros(0, np.int64)
        self._overlay: dict[bytes, int] = {}
        self._published: list[tuple[Segment, BoolArray | None]] = []  # not in the arrays yet
        self._waiting: list[bytes] = []  # ids that may replace one of them
        self._replaced: list[int] = []

    @staticmethod
    def of(snapshot: Snapshot) -> IdMap:
        """The map of all live images of a state. Raises ``DamagedIndexError`` where a table of images is damaged."""
        made = IdMap()
        made._published = list(zip(snapshot.segments, snapshot.live, strict=True))
        for segment in snapshot.segments:
            _ = segment.numbers  # read and checked now: later its file may be gone
        return made

    def get(self, image: bytes) -> int | None:
        """The number of an image, or None."""
        self._digest()
        return self._find(_key(image))

    def put(self, image: bytes, number: int) -> None:
        """Set the number of an image."""
        key = _key(image)
        if self._published and key not in self._overlay:
            self._waiting.append(image)
        else:
            self._replace(key)
        self._change(key, number)

    def remove(self, image: bytes) -> bool:
        """Remove an image; returns whether it was in the map."""
        self._digest()
        key = _key(image)
        known = self._replace(key)
        self._change(key, _REMOVED)
        return known

    def take_replaced(self) -> list[int]:
        """The numbers that images had which were set anew or removed since the last call."""
        if self._waiting:
            import pyarrow.compute as pc  # a tenth of the start of a command that needs no lookup

            ids = pa.array(self._waiting, pa.large_binary())
            for segment, live in self._published:
                replaced = pc.is_in(segment.images.column("id"), value_set=ids).to_numpy(zero_copy_only=False)
                self._replaced += segment.numbers[replaced if live is None else replaced & live].tolist()
            self._waiting = []
        replaced_numbers, self._replaced = self._replaced, []
        return replaced_numbers

    def duplicates(self) -> int:
        """Number of ids that occur more than once."""
        self._digest()
        return int((self._keys[1:] == self._keys[:-1]).sum())

    def _replace(self, key: bytes) -> bool:
        before = self._find(key)
        if before is not None:
            self._replaced.append(before)
        return before is not None

    def _change(self, key: bytes, number: int) -> None:
        self._overlay[key] = number
        if len(self._overlay) >= OVERLAY:
            self._merge()

    def _find(self, key: bytes) -> int | None:
        number = self._overlay.get(key)
        if number is None:
            position = int(np.searchsorted(self._keys, np.array(key, "S16")))
            if position < len(self._keys) and self._keys[position] == key:
                return int(self._numbers[position])
        return None if number == _REMOVED else number

    def _digest(self) -> None:
        """Move what is published into the arrays."""
        if not self._published:
            return
        self._replaced = self.take_replaced()
        keys, numbers = [np.zeros(0, "S16")], [np.zeros(0, np.int64)]
        for segment, live in self._published:
            digests = np.array([_key(i) for i in segment.image_ids()], dtype="S16")
            keys.append(digests if live is None else digests[live])
            numbers.append(segment.numbers if live is None else segment.numbers[live])
        self._published = []
        self._sort(np.concatenate(keys), np.concatenate(numbers))

    def _merge(self) -> None:
        """Move the overlay into the arrays."""
        self._digest()
        keys = np.array(list(self._overlay), dtype="S16")
        numbers = np.array(list(self._overlay.values()), dtype=np.int64)
        kept = ~np.isin(self._keys, keys)
        there = numbers != _REMOVED
        self._sort(
            np.concatenate([self._keys[kept], keys[there]]), np.concatenate([self._numbers[kept], numbers[there]])
        )
        self._overlay = {}

    def _sort(self, keys: BytesArray, numbers: Int64Array) -> None:
        order = np.argsort(keys, kind="stable")
        self._keys, self._numbers = keys[order], numbers[order]


def _key(image: bytes) -> bytes:
    # NumPy drops trailing zeros of byte strings; without them a digest equals itself after the round trip
    return hashlib.blake2b(image, digest_size=16).digest().rstrip(b"\0")
