"""What a row of an index is: which files of a segment hold it, and how they are encoded, decoded and checked.

A segment has one file for each column of the schema, beside its two tables (:mod:`objemb.index.storage.tables`), which
every index has. A kind of row is a file of this folder with a class that is listed in
:mod:`objemb.index.storage.manifest`. It says in which order the files hold what belongs to the rows: vectors follow one
another as they come, so that they are written at once; the words of an inverted file are sorted when a segment is
closed, so that they wait in memory until then.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np

from objemb.index.blocks import Block
from objemb.structures import Described, Regions, Scalar
from objemb.types import AnyArray, BoolArray, Buffer, Int64Array

#: The columns of some rows by name.
Columns: TypeAlias = Mapping[str, AnyArray]


class ColumnSorter(ABC):
    """What brings the rows of one segment into the order of its files."""

    @abstractmethod
    def add(self, columns: Columns) -> Columns:
        """Take rows; gives what can be written to the files of the columns by now."""

    @abstractmethod
    def rest(self) -> Iterator[Columns]:
        """What remains to be written when the segment is complete."""


@dataclass(frozen=True)
class RowSchema(ABC):
    """A kind of row. Subclasses are frozen dataclasses whose fields are plain values, which the manifest holds.

    Rows in memory, on their way into a segment, are columns that :meth:`encode` and :meth:`select` make. Columns of a
    segment, as :meth:`decode` gives them, may be others.

    Attributes:
        name: In the manifest.
        columns: Names of the columns of a segment, which are also the endings of their files: lower-case letters.
        scale: What scores of such rows are, in words.
        engine: Name of the engine that searches such rows exactly, see :mod:`objemb.index.engines.base`.
        most_rows: A compacted segment is closed at this :meth:`weight`.
        dim: Length of the vectors that a model hands in, to be stored or to be searched for.
    """

    name: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    scale: ClassVar[str]
    engine: ClassVar[str]
    most_rows: ClassVar[int] = 1 << 20
    dim: int

    @property
    def kind(self) -> dict[str, object]:
        """What indexes must agree in for the rows of one to be rows of the other."""
        return {"schema": self.name, "dim": self.dim}

    @abstractmethod
    def check(self, name: str, described: Described) -> None:
        """Raise ``ArtefactMismatchError`` unless an index of this schema can take, and be asked for, such rows."""

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
        """For the rows of a new segment, of this schema or of one of the same :attr:`kind`."""

    @abstractmethod
    def check_sizes(self, rows: int, sizes: Mapping[str, int]) -> None:
        """Raise ``ValueError`` unless files of these sizes in bytes may hold this number of rows."""

    @abstractmethod
    def decode(self, content: Mapping[str, Buffer], rows: int) -> Columns:
        """Arrays over the bytes of files whose sizes were checked; what is mapped is not read."""

    @abstractmethod
    def select(self, columns: Columns, first: int, kept: BoolArray) -> Columns:
        """Those of the rows of a segment from ``first`` on for which ``kept`` is true, as rows in memory."""

    @abstractmethod
    def problems(self, columns: Columns, on_bytes: Callable[[int], None]) -> Iterator[str]:
        """What is wrong with the rows of a segment, in words; tells of numbers of bytes that were read."""

    @abstractmethod
    def block(self, columns: Columns, images: Int64Array, alive: BoolArray | None) -> Block:
        """The rows of a segment as they are searched; see :class:`objemb.index.blocks.Block`."""

    @abstractmethod
    def queries(self, described: Sequence[Described]) -> Any:
        """The rows of one or more queries, one after the other, as engines and blocks of such rows take them."""

    @abstractmethod
    def check_score(self, score: float, queries: Any) -> None:
        """Raise ``DamagedIndexError`` for a largest score that sound rows cannot have with these queries."""

    def joined(self, parts: Sequence[Columns]) -> Columns:
        """Rows in memory of several parts, in order."""
        return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

    def weight(self, rows: int, images: int, size: int) -> int:
        """What a segment counts as, when it is to be closed or joined: its regions and images together.

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
    """Rows whose files hold them in the order in which they come.

    Args:
        stored: Rows in memory as the bytes that the files take.
    """

    def __init__(self, stored: Callable[[Columns], Columns]) -> None:
        self._stored = stored

    def add(self, columns: Columns) -> Columns:
        """As :meth:`ColumnSorter.add`."""
        return self._stored(columns)

    def rest(self) -> Iterator[Columns]:
        """As :meth:`ColumnSorter.rest`: nothing."""
        yield from ()
