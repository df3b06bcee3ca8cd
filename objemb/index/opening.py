"""Opens and creates an index wherever it lives: in a folder, or at an address."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from objemb import registry
from objemb.index.addresses import Address, parse_address
from objemb.index.collection import ImageCollection
from objemb.index.storage.manifest import MANIFEST_FILE
from objemb.index.storage.schema import RowSchema
from objemb.index.store import Index
from objemb.index.stores.base import Store


def open_index(where: str | Path) -> ImageCollection:
    """Open the latest state of an index.

    Args:
        where: A folder, or an address such as ``postgresql://host/db?table=shop``, see :mod:`objemb.index.addresses`.

    Raises:
        IndexFolderError: There is no index.
        ArtefactMismatchError: The index was written by a newer version of objemb.
        DamagedIndexError: What describes the index is damaged.
        StoreError: The store cannot be reached.
        ImportError: The client of the store is not installed; the message has the pip line.
        ValueError: The address is not valid.
    """
    address = parse_address(where)
    if address is None:
        return Index.open(where)
    from objemb.index.remote.index import RemoteIndex

    return RemoteIndex.open(connected(address))


def create_index(
    where: str | Path, *, schema: RowSchema, fingerprint: str, model: Mapping[str, object] | None = None
) -> ImageCollection:
    """Create an empty index. At an address, rows are vectors of float32.

    The arguments are those of :meth:`objemb.index.store.Index.create`; errors as well, and those of :func:`open_index`.
    """
    address = parse_address(where)
    if address is None:
        return Index.create(where, schema=schema, fingerprint=fingerprint, model=model)
    from objemb.index.remote.index import RemoteIndex

    return RemoteIndex.create(connected(address), schema=schema, fingerprint=fingerprint, model=model)


def index_exists(where: str | Path) -> bool:
    """Whether there is an index, of whatever model. Errors are those of :func:`open_index` for an address."""
    address = parse_address(where)
    if address is None:
        return (Path(where) / MANIFEST_FILE).exists()
    store = connected(address)
    try:
        return bool(store.header())
    finally:
        store.close()


def connected(address: Address) -> Store:
    """The store at an address. Errors are those of :func:`open_index`."""
    return registry.load(Store, address.store)(address)
