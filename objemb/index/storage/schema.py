"""What a row of an index is: which files of a segment hold it, and how they are encoded, decoded and checked.

A segment has one file for each column of the schema, beside its two tables (:mod:`objemb.index.storage.tables`), which
every index has. A column holds what belongs to the rows in their order, one after the other and without gaps, so that
segments are written by appending and copied by cutting. A new kind of row is a class of this file in :data:`SCHEMAS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np

from objemb import checks
from objemb.structures import RegionDescriptors
from objemb.types import AnyArray, BoolArray, FloatArray

#: The columns of some rows by name.
Columns: TypeAlias = Mapping[str, AnyArray]

DTYPES = ("float32", "float16")
#: Longer vectors are no descriptors.
MOST_DIM = 1 << 24
#: Vectors must be this close to unit length (or to zero); float16 networks are not more exact.
UNIT_TOLERANCE = 0.01
#: Rows that are checked at a time.
CHUNK_ROWS = 16_384


class RowSchema(ABC):
    """A kind of row. Subclasses are frozen dataclasses whose fields are plain values, which the manifest holds.

    Attributes:
        name: In the manifest.
        columns: Names of the columns, which are also the endings of their files: lower-case letters.
        dim: Length of the vectors that a model hands in, to be stored or to be searched for.
    """

    name: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    dim: int

    @abstractmethod
    def encode(self, described: RegionDescriptors) -> Columns:
        """The rows of an image, as copies. Raises ``ValueError`` for what cannot be stored."""

    @abstractmethod
    def stored(self, columns: Columns) -> Columns:
        """Columns of this schema, or of one of the same name and ``dim``, as the bytes that the files take."""

    @abstractmethod
    def check_sizes(self, rows: int, sizes: Mapping[str, int]) -> None:
        """Raise ``ValueError`` unless files of these sizes in bytes may hold this number of rows."""

    @abstractmethod
    def decode(self, content: Mapping[str, object], rows: int) -> Columns:
        """Arrays over the bytes of files whose sizes were checked; what is mapped is not read."""

    @abstractmethod
    def select(self, columns: Columns, first: int, kept: BoolArray) -> Columns:
        """Those of the rows from ``first`` on for which ``kept`` is true."""

    @abstractmethod
    def problems(self, columns: Columns, on_bytes: Callable[[int], None]) -> Iterator[str]:
        """What is wrong with stored rows, in words; tells of numbers of bytes that were read."""

    def joined(self, parts: Sequence[Columns]) -> Columns:
        """The rows of several parts, in order."""
        return {c: np.concatenate([p[c] for p in parts]) for c in self.columns}

    def to_json(self) -> dict[str, object]:
        """``{"name": ..., **fields}``; :func:`schema_from_json` reverses it."""
        return {"name": self.name, **asdict(self)}  # type: ignore[call-overload]


@dataclass(frozen=True)
class UnitVectors(RowSchema):
    """A vector of unit length (or zero) for each row.

    Attributes:
        dim: Length of the vectors.
        dtype: Number type on disk, one of :data:`DTYPES`; little-endian, ``(rows, dim)``, C order.
    """

    name = "unit_vectors"
    columns = ("vectors",)

    dim: int
    dtype: str = "float32"

    def __post_init__(self) -> None:
        checks.one_of("dtype", self.dtype, DTYPES)
        checks.between("dim", checks.whole("dim", self.dim), 1, MOST_DIM)

    def encode(self, described: RegionDescriptors) -> Columns:
        """As :meth:`RowSchema.encode`."""
        if described.dim != self.dim:
            raise ValueError(f"vectors of {described.image!r}: expected dimension {self.dim}, found {described.dim}")
        check_unit(described.image, described.vectors)
        return {"vectors": np.array(described.vectors, dtype=self.dtype, order="C")}

    def stored(self, columns: Columns) -> Columns:
        """As :meth:`RowSchema.stored`."""
        return {"vectors": np.ascontiguousarray(columns["vectors"], dtype=self._stored_dtype)}

    def check_sizes(self, rows: int, sizes: Mapping[str, int]) -> None:
        """As :meth:`RowSchema.check_sizes`."""
        if sizes["vectors"] != rows * self.dim * self._stored_dtype.itemsize:
            raise ValueError(f"vectors: expected {rows} rows, found {sizes['vectors']} bytes")

    def decode(self, content: Mapping[str, Any], rows: int) -> Columns:
        """As :meth:`RowSchema.decode`."""
        return {"vectors": np.frombuffer(content["vectors"], self._stored_dtype).reshape(rows, self.dim)}

    def select(self, columns: Columns, first: int, kept: BoolArray) -> Columns:
        """As :meth:`RowSchema.select`."""
        return {"vectors": columns["vectors"][first : first + len(kept)][kept]}

    def problems(self, columns: Columns, on_bytes: Callable[[int], None]) -> Iterator[str]:
        """As :meth:`RowSchema.problems`."""
        for start in range(0, len(columns["vectors"]), CHUNK_ROWS):
            stored = columns["vectors"][start : start + CHUNK_ROWS]
            part = stored.astype(np.float32)
            if not np.isfinite(part).all():
                yield f"expected finite vectors, found others after row {start}"
                return
            try:
                check_unit(f"rows from {start}", part)
            except ValueError as error:
                yield str(error)
                return
            on_bytes(stored.nbytes)

    @property
    def _stored_dtype(self) -> np.dtype[Any]:
        return np.dtype(self.dtype).newbyteorder("<")


#: The kinds of rows by name.
SCHEMAS: dict[str, type[RowSchema]] = {UnitVectors.name: UnitVectors}


def schema_from_json(data: Mapping[str, Any]) -> RowSchema:
    """A schema from what :meth:`RowSchema.to_json` made. Raises ``ValueError`` or ``TypeError`` for anything else."""
    fields = dict(data)
    name = checks.one_of("schema", fields.pop("name"), tuple(SCHEMAS))
    return SCHEMAS[name](**fields)


def check_unit(name: str, vectors: FloatArray) -> None:
    """Check that rows have unit length or are zero; scores are inner products and mean nothing otherwise."""
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float32))
    wrong = np.flatnonzero((np.abs(lengths - 1) > UNIT_TOLERANCE) & (lengths != 0))
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"vectors of {name!r}: expected rows of unit length (or zero), found length {lengths[row]:.4g} in row {row}"
        )
