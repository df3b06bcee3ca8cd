"""The generations of an index at an address: tables of the same store, told apart by its header.

A writer has no lock, so a migration cannot keep others from adding photos to the old generation while it publishes the
new one. Instead it *closes* the old generation by a text of the header before it looks whether that was changed. A
writer that has stored a batch looks at the header before it acknowledges it: in a closed generation it waits, and in
one that no longer answers it raises an error. So a batch that was acknowledged was stored before the generation was
closed, and is in what the migration has looked at.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from objemb.checks import ArtefactMismatchError, IndexFolderError
from objemb.index.generations import NEXT, PREVIOUS, Generations
from objemb.index.remote.header import CLOSING, CURRENT, LAST, UNUSED, Header, checked_schema, read_header, text_of
from objemb.index.storage.manifest import now
from objemb.index.storage.schema import RowSchema
from objemb.index.stores.base import Store, StoreError

if TYPE_CHECKING:
    from objemb.index.collection import ImageCollection

#: Seconds that a writer waits for a migration that publishes, and between two looks.
CLOSED_SECONDS, LOOK_SECONDS = 60.0, 0.1


class RemoteGenerations(Generations):
    """The generations of an index at an address.

    Args:
        store: The store.
        header: The generation that is open.
        version: The version of its rows, see :meth:`objemb.index.stores.base.Store.version`.
        opened: Opens a generation.
    """

    def __init__(self, store: Store, header: Header, version: int, opened: Callable[[Header], ImageCollection]) -> None:
        self._store, self._header, self._version, self._opened = store, header, version, opened

    def tidy(self) -> None:
        """As :meth:`Generations.tidy`."""
        unused = self._store.header().get(UNUSED)
        if unused is not None:
            self._store.drop(int(unused))
            self._store.put_header({UNUSED: None})

    def kept(self) -> str | None:
        """As :meth:`Generations.kept`."""
        header = read_header(self._store, PREVIOUS)
        return None if header is None else f"generation {header.generation} of {self._store.address}"

    def begun(self) -> ImageCollection | None:
        """As :meth:`Generations.begun`."""
        header = read_header(self._store, NEXT)
        return None if header is None else self._opened(header)

    def begin(self, schema: RowSchema, fingerprint: str, model: Mapping[str, object] | None) -> ImageCollection:
        """As :meth:`Generations.begin`."""
        vectors = checked_schema(self._store.address, schema)
        texts = self._store.header()
        number = 1 + max(int(texts.get(name, 0)) for name in (LAST, CURRENT))
        # a number is used once, so that nobody takes another table for the one that is open
        self._store.put_header({LAST: str(number), UNUSED: str(number)})
        self._store.create(number, vectors.dim)
        header = Header(number, vectors, fingerprint, model, now())
        self._store.put_header({**header.texts(), NEXT: str(number), UNUSED: None})
        return self._opened(header)

    def switch(self, *, keep: bool) -> bool:
        """As :meth:`Generations.switch`."""
        store, own = self._store, self._header.generation
        texts = store.header()
        made = read_header(store, NEXT, texts)
        if made is None or texts[CURRENT] != str(own):
            raise ArtefactMismatchError(
                f"{store.address}: expected the next generation, found none: another migration has published it, or "
                "'objemb migrate --cancel' has deleted it"
            )
        if keep and PREVIOUS in texts:
            raise IndexFolderError(f"{store.address}: expected no generation that is still kept, found one")
        old = {PREVIOUS: str(own)} if keep else {UNUSED: str(own), text_of(own): None}
        store.put_header({CLOSING: str(own)})
        try:
            if store.version(own) != self._version:
                return False
            published = replace(made, created=self._header.created).texts()
            store.put_header({**published, CURRENT: str(made.generation), NEXT: None, **old})
        finally:
            store.put_header({CLOSING: None})
        self.tidy()
        return True

    def drop(self, name: str) -> bool:
        """As :meth:`Generations.drop`."""
        header = read_header(self._store, name)
        if header is None:
            return False
        number = header.generation
        # a migration that was killed while it published may have left the old generation closed
        gone = {name: None, text_of(number): None, CLOSING: None}
        self._store.put_header({**gone, UNUSED: str(number)})
        self.tidy()
        return True


def expect_open(store: Store, generation: int) -> None:
    """To be called by a writer that has stored something, before it says so.

    Raises:
        ArtefactMismatchError: Another generation answers meanwhile, which does not have it.
        StoreError: A migration was interrupted while it published.
    """
    patience = time.monotonic() + CLOSED_SECONDS
    while True:
        texts = store.header()
        if str(generation) not in (texts.get(CURRENT), texts.get(NEXT)):
            raise ArtefactMismatchError(
                f"{store.address}: expected the index that was opened, found that it was migrated to another model "
                "meanwhile, which does not have the photos of the last batch; index them with the new model"
            )
        if texts.get(CLOSING) != str(generation):
            return
        if time.monotonic() > patience:
            raise StoreError(
                f"{store.address}: expected a migration that publishes to end, found that it did not within "
                f"{CLOSED_SECONDS:.0f} s; repeat 'objemb migrate', or end it by --cancel"
            )
        time.sleep(LOOK_SECONDS)
