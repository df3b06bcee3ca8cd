"""The contract of stores: databases that hold the rows of an index at an address.

A store is a plug-in: one file of this package with one class. It keeps rows and finds the ones closest to a vector;
everything that makes them an index is the same for all stores and lies in :mod:`objemb.index.remote`: grouping rows to
photos, ties, filters that the store cannot express, provenance, and the order of photos.

A store holds one table of rows for each *generation* of the index (a migration fills the next one), and a few texts by
name, its *header*, which all generations share. Rows are Arrow tables with the columns of
:func:`objemb.index.remote.rows.row_schema`. A photo is all rows of one ``image`` and one ``number``: ``boxes`` of them,
with ``box`` from 0, or a single one with ``box`` -1 if it has none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from objemb.checks import ObjembError
from objemb.index.addresses import STORES, Address
from objemb.index.filters.syntax import Node
from objemb.registry import Plugin
from objemb.types import Float32Array


class StoreError(ObjembError):
    """A store cannot be reached, or refused what it was asked. The message holds no credentials."""


@dataclass(frozen=True, eq=False)
class Nearest:
    """The rows that are closest to one vector, best first.

    Attributes:
        images: The image of each of the n rows.
        scores: float32 ``(n,)`` inner products as the store computes them, descending.
    """

    images: Sequence[str]
    scores: Float32Array


@dataclass(frozen=True)
class StoreFacts:
    """What a store knows of a generation.

    Attributes:
        images: Number of photos.
        rows: Number of rows with a box.
        bytes: Bytes on disk, with indexes; None if the store does not tell.
        approximate: Name of the index for approximate search, None without one.
        indexed_rows: Number of rows that this index covers.
        details: Versions and settings, JSON-ready.
    """

    images: int
    rows: int
    bytes: int | None
    approximate: str | None
    indexed_rows: int
    details: Mapping[str, object]


class Store(Plugin, ABC):
    """A connection to the rows at an address. Methods may be called from several threads.

    Attributes:
        credentials: A sentence that says where credentials come from, for messages.
        example: An address of such a store, for messages.

    Args:
        address: The address.

    Raises:
        ImportError: The client is not installed; the message has the pip line.
        ValueError: The address lacks something, or has something that the store does not know.
        StoreError: The server cannot be reached.
    """

    kind = STORES

    credentials: ClassVar[str]
    example: ClassVar[str]

    def __init__(self, address: Address) -> None:
        self.address = address

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the table."""

    @abstractmethod
    def header(self) -> dict[str, str]:
        """The texts by name; empty where there is no index."""

    @abstractmethod
    def put_header(self, texts: Mapping[str, str | None]) -> None:
        """Store some texts, all or none; None removes one. The first call makes what the header is kept in."""

    @abstractmethod
    def version(self, generation: int | None) -> int:
        """A number that is another one after every change of the rows of a generation, or, for None, of the header."""

    @abstractmethod
    def create(self, generation: int, dim: int) -> None:
        """Make the empty table of a generation; does nothing if it is there."""

    @abstractmethod
    def drop(self, generation: int) -> None:
        """Delete the table of a generation, if it is there."""

    @abstractmethod
    def fields(self, generation: int) -> dict[str, frozenset[str]]:
        """The metadata columns that rows have, or had, with the types of their values: ``text``, ``number``,
        ``boolean``; no type where all values are null."""

    @abstractmethod
    def replace(self, generation: int, rows: pa.Table) -> None:
        """Store whole photos in place of those of the same image.

        When this returns, the photos are durable. Another reader sees each photo as it was before or as it is now, at
        any time and also if this process or the server is killed; the store may show rows of both for a while, of
        which readers drop those of the lower ``number``, and of an incomplete number all.

        Args:
            generation: The generation.
            rows: Whole photos, each image once.
        """

    @abstractmethod
    def delete(self, generation: int, images: Sequence[str]) -> None:
        """Delete images, those that are there."""

    @abstractmethod
    def says(self, leaf: Node) -> bool:
        """Whether :meth:`nearest` and :meth:`count` can evaluate a part of a filter: a comparison, ``OneOf`` or
        ``IsNull``, or ``Not`` of one of the last two. Others are evaluated by the caller on the rows."""

    @abstractmethod
    def nearest(
        self, generation: int, vectors: Float32Array, count: int, where: Node | None, *, exact: bool
    ) -> list[Nearest]:
        """The rows with the largest inner products.

        Args:
            generation: The generation.
            vectors: float32 ``(R, D)``.
            count: Rows for each vector; fewer are returned only if there are no more that match, or, of an approximate
                search, if it did not find them. Of rows that tie at the end, any.
            where: Only rows for which this filter is true, in the form of :func:`objemb.index.filters.normal.normal`,
                whose leaves :meth:`says` has accepted. Rows with ``box`` -1 are never returned.
            exact: Whether no row may be missed; otherwise the index for approximate search may be used.
        """

    @abstractmethod
    def count(self, generation: int, where: Node | None, most: int) -> int:
        """Number of rows with a box that match a filter, or ``most`` if there are more."""

    @abstractmethod
    def rows(self, generation: int, images: Sequence[str], columns: Sequence[str]) -> pa.Table:
        """Some columns of the rows of some images, in any order; images that are not there have none."""

    @abstractmethod
    def images_of(self, generation: int, numbers: Sequence[int]) -> list[str]:
        """The images that have, or had, some numbers, in any order; a number that is not there has none."""

    @abstractmethod
    def scan(self, generation: int, columns: Sequence[str], batch: int) -> Iterator[pa.Table]:
        """Some columns of all rows, in tables of about ``batch`` rows, in any order, as they are when the scan begins
        where the store can do that."""

    @abstractmethod
    def facts(self, generation: int) -> StoreFacts:
        """Counts, bytes, and the state of the index for approximate search."""

    @abstractmethod
    def build(self, generation: int) -> None:
        """Build the index for approximate search, or rebuild it. Reading and writing go on.

        Raises:
            ValueError: Its vectors are too long for that.
        """

    @abstractmethod
    def compact(self, generation: int) -> None:
        """Free the space of deleted rows, as far as that can be done while reading and writing go on."""

    def problems(self, generation: int) -> list[str]:
        """What is wrong with the table beyond what its rows tell; empty if nothing is."""
        return []

    def close(self) -> None:
        """Close connections."""
