"""Schemas of rows: the files of a segment that store them, and how these are encoded, decoded and checked.

A segment has one file for each column of the schema, and two tables (:mod:`objemb.index.storage.tables`), which every
index has. A schema is a class in a file of this folder that is listed in :mod:`objemb.index.storage.manifest`. It
determines the order of the rows in the files: vectors are stored in the order in which they are added, so they are
written immediately; the words of an inverted file are sorted when a segment is closed, so they are kept in memory until
then.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np

from objemb.index.storage.blocks import Block
from objemb.structures import Described, Regions, Scalar
from objemb.types import AnyArray, BoolArray, Buffer, Int64Array

#: The columns of some rows by name.
Columns: TypeAlias = Mapping[str, AnyArray]


class ColumnSorter(ABC):
    """Brings the rows of one segment into the order of its files."""

    @abstractmethod
    def add(self, columns: Columns) -> Columns:
        """Add rows; returns columns that can already be written to the files."""

    @abstractmethod
    def rest(self) -> Iterator[Columns]:
        """The remaining columns to write when the segment is complete."""


@dataclass(frozen=True)
class RowSchema(ABC):
    """A schema of rows. Subclasses are frozen dataclasses whose fields are plain values, which the manifest contains.

    Rows in memory, before they are written to a segment, are columns from :meth:`encode` and :meth:`select`. The
    columns of a segment, from :meth:`decode`, may be others.

    Attributes:
        name: Name in the manifest.
        columns: Names of the columns of a segment, which are also the endings of their files: lower-case letters.
        scale: Description of the scores of such rows.
        engine: Name of the engine that searches such rows exactly, see :mod:`objemb.index.engines.base`.
        most_rows: A compacted segment is closed at this :meth:`weight`.
        dim: Dimension of the model's vectors or residuals.
    """

    name: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    scale: ClassVar[str]
    engine: ClassVar[str]
    most_rows: ClassVar[int] = 1 << 20
    dim: int

    @property
    def kind(self) -> dict[str, object]:
        """Properties that two indexes must share to be merged."""
        return {"schema": self.name, "dim": self.dim}

    @abstractmethod
    def check(self, name: str, described: Described) -> None:
        """Raise ``ArtefactMismatchError`` if such rows can be neither stored in nor searched for in this schema."""

    @abstractmethod
    def encode(self, described: Described) -> Columns:
        """The rows of an image, as copies.

        Raises:
            ArtefactMismatchError: They are of another kind or length.
            ValueError: They cannot be stored.
        """

    @abstractmethod
    def described(
        self, image: str, regions: Regions, columns: Columns, rows: slice, metadata: Mapping[str, Scalar]
    ) -> Described:
        """The reverse of :meth:`encode`, from the columns of a segment and the rows of the image in it."""

    @abstractmethod
    def sorter(self) -> ColumnSorter:
        """A sorter for a new segment, with rows of this schema or of one of the same :attr:`kind`."""

    @abstractmethod
    def check_sizes(self, rows: int, sizes: Mapping[str, int]) -> None:
        """Raise ``ValueError`` if files of these sizes in bytes cannot contain this number of rows."""

    @abstractmethod
    def decode(self, content: Mapping[str, Buffer], rows: int) -> Columns:
        """Arrays over the bytes of files whose sizes were checked; mapped files are not read."""

    @abstractmethod
    def select(self, columns: Columns, first: int, kept: BoolArray) -> Columns:
        """The rows of a segment from ``first`` on for which ``kept`` is True, as rows in memory."""

    @abstractmethod
    def problems(self, columns: Columns, on_bytes: Callable[[int], None]) -> Iterator[str]:
        """The problems with the rows of a segment; ``on_bytes`` is called with numbers of bytes that were read."""

    @abstractmethod
    def block(self, columns: Columns, images: Int64Array, alive: BoolArray | None) -> Block:
        """The rows of a segment as they are searched; see :class:`objemb.index.storage.blocks.Block`."""

    @abstractmethod
    def queries(self, described: Sequence[Described]) -> Any:
        """The rows of one or more queries, one after another, as input of engines and blocks of such rows."""

    @abstractmethod
    def check_score(self, score: float, queries: Any) -> None:
        """Raise ``DamagedIndexError`` for a score that undamaged rows cannot have with these queries."""

    def joined(self, parts: Sequence[Columns]) -> Columns:
        """Rows in memory of several parts, in order."""
        return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

    def weight(self, rows: int, images: int, size: int) -> int:
        """The weight of a segment, which decides when it is closed or joined: its regions and images together.

        Args:
            rows: Number of regions.
            images: Number of images.
            size: Bytes of all columns.
        """
        return rows + images

    def to_json(self) -> dict[str, object]:
        """``{"name": ..., **fields}``; :func:`objemb.index.storage.manifest.schema_from_json` reverses it."""
        return {"name": self.name, **asdict(self)}


class AsTheyCome(ColumnSorter):
    """Keeps the order in which rows are added.

    Args:
        stored: Converts rows in memory to the contents of the files.
    """

    def __init__(self, stored: Callable[[Columns], Columns]) -> None:
        self._stored = stored

    def add(self, columns: Columns) -> Columns:
        """As :meth:`ColumnSorter.add`."""
        return self._stored(columns)

    def rest(self) -> Iterator[Columns]:
        """As :meth:`ColumnSorter.rest`: nothing."""
        yield from ()
