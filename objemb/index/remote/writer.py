"""Adding to and deleting from an index at an address."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from types import TracebackType

from objemb.checks import IndexWriteError
from objemb.index.remote.generations import expect_open
from objemb.index.remote.header import Header
from objemb.index.remote.rows import new_photo, rows_of
from objemb.index.storage.tables import Entry
from objemb.index.stores.base import Store, StoreError
from objemb.structures import Described

#: Rows that are written together, and bytes of their vectors: a batch is closed when it reaches either.
BATCH_ROWS = 16_384
BATCH_BYTES = 32 << 20
#: Images that are looked up one at a time, before the ids of all are read.
SINGLY_ASKED = 16


class RemoteWriter:
    """Adds and deletes images at an address, as :class:`objemb.index.collection.ImageWriter`.

    Images are collected and written in batches; each photo is replaced whole, and durable when its batch is written. An
    image that is added a second time before that replaces the first.

    Args:
        store: The store.
        header: The generation that is written.
        ids: Reads the ids of all images.
        there: Which of some images are there.
        published: Called after each batch.
    """

    def __init__(
        self,
        store: Store,
        header: Header,
        ids: Callable[[], set[str]],
        there: Callable[[Sequence[str]], set[str]],
        published: Callable[[], None],
    ) -> None:
        self._store, self._header = store, header
        self._read_ids, self._there, self._published = ids, there, published
        self._asked = 0
        self._ids: set[str] | None = None
        self._pending: dict[str, Entry] = {}
        self._pending_rows = 0
        self._number = 0
        self._open = False

    def __enter__(self) -> RemoteWriter:
        self._open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.commit()
        finally:
            self._open = False
            self._pending = {}

    def add(self, described: Described, stamp: str | None = None) -> None:
        """As :meth:`ImageWriter.add`.

        Raises:
            ArtefactMismatchError, ValueError: As for :func:`objemb.index.remote.rows.new_photo`. The writer stays
                usable.
            StoreError: The batch could not be written; it is kept, and the next call tries again.
        """
        self._check_open()
        # nanoseconds: numbers grow from one run to the next without asking the store
        self._number = max(self._number + 1, time.time_ns())
        photo = new_photo(described, self._number, stamp, self._header.schema)
        before = self._pending.pop(described.image, None)
        self._pending_rows += _rows(photo) - (0 if before is None else _rows(before))
        self._pending[described.image] = photo
        if self._ids is not None:
            self._ids.add(described.image)
        if self._pending_rows >= BATCH_ROWS or 4 * self._pending_rows * self._header.schema.dim >= BATCH_BYTES:
            self.commit()

    def delete(self, images: Iterable[str]) -> list[str]:
        """As :meth:`ImageWriter.delete`."""
        self._check_open()
        self.commit()
        wanted = list(dict.fromkeys(images))
        known = self._there(wanted)
        unknown, there = [i for i in wanted if i not in known], [i for i in wanted if i in known]
        for first in range(0, len(there), BATCH_ROWS):
            some = there[first : first + BATCH_ROWS]
            self._changed(partial(self._store.delete, self._header.generation, some))
        if self._ids is not None:
            self._ids.difference_update(there)
        if there:
            self._published()
        return unknown

    def __contains__(self, image: str) -> bool:
        if image in self._pending:
            return True
        if self._ids is None:
            self._asked += 1
            if self._asked <= SINGLY_ASKED:
                return image in self._there([image])
            self._ids = self._read_ids() | set(self._pending)
        return image in self._ids

    def commit(self) -> None:
        """As :meth:`ImageWriter.commit`: write what was collected."""
        self._check_open()
        if not self._pending:
            return
        rows = rows_of(list(self._pending.values()), self._header.schema.dim)
        self._changed(partial(self._store.replace, self._header.generation, rows))
        self._pending, self._pending_rows = {}, 0
        self._published()

    def _changed(self, change: Callable[[], None]) -> None:
        """Change the rows of the generation, which counts if it still answers."""
        try:
            change()
        except StoreError:
            expect_open(self._store, self._header.generation)  # it may have been dropped: that is the better answer
            raise
        expect_open(self._store, self._header.generation)

    def _check_open(self) -> None:
        if not self._open:
            raise IndexWriteError(f"{self._store.address}: expected an open writer, found one that is closed")


def _rows(photo: Entry) -> int:
    """How many rows a photo has; one if it has no boxes."""
    return max(1, len(photo.boxes))


def batches(images: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    """Runs of at most ``size`` ids."""
    return (images[first : first + size] for first in range(0, len(images), size))
