"""The schema of rows with one vector of unit length each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from objemb import checks
from objemb.checks import ArtefactMismatchError, DamagedIndexError
from objemb.index.storage.blocks import VectorBlock
from objemb.index.storage.schema import AsTheyCome, Columns, RowSchema
from objemb.structures import Described, RegionDescriptors, Regions, Scalar
from objemb.structures.results import COSINE
from objemb.types import BoolArray, Buffer, Float32Array, FloatArray, Int64Array

DTYPES = ("float32", "float16")
#: Maximum dimension of vectors.
MAX_DIM = 1 << 24
#: Tolerance for unit (or zero) length; networks in float16 are not more accurate.
UNIT_TOLERANCE = 0.01
#: Number of rows that are checked at a time.
CHUNK_ROWS = 16_384


@dataclass(frozen=True)
class UnitVectors(RowSchema):
    """A vector of unit length (or zero) for each row.

    Attributes:
        dim: Length of the vectors.
        dtype: Number type on disk, one of :data:`DTYPES`; little-endian, ``(rows, dim)``, C order.
    """

    name = "unit_vectors"
    columns = ("vectors",)
    scale = COSINE
    engine = "exact"

    dim: int
    dtype: str = "float32"

    def __post_init__(self) -> None:
        checks.one_of("dtype", self.dtype, DTYPES)
        checks.between("dim", checks.whole("dim", self.dim), 1, MAX_DIM)

    def check(self, name: str, described: Described) -> None:
        """As :meth:`RowSchema.check`."""
        self._vectors(name, described)

    def _vectors(self, name: str, described: Described) -> Float32Array:
        if not isinstance(described, RegionDescriptors):
            raise ArtefactMismatchError(
                f"{name}: expected vectors for an index of {self.name!r}, found {type(described).__name__}"
            )
        if described.dim != self.dim:
            raise ArtefactMismatchError(f"{name}: expected vectors of dimension {self.dim}, found {described.dim}")
        return described.vectors

    def encode(self, described: Described) -> Columns:
        """As :meth:`RowSchema.encode`."""
        vectors = self._vectors(f"image {described.image!r}", described)
        check_unit(described.image, vectors)
        return {"vectors": np.array(vectors, dtype=self.dtype, order="C")}

    def described(
        self, image: str, regions: Regions, columns: Columns, rows: slice, metadata: Mapping[str, Scalar]
    ) -> RegionDescriptors:
        """As :meth:`RowSchema.described`."""
        return RegionDescriptors(image, regions, columns["vectors"][rows].astype(np.float32), metadata)

    def sorter(self) -> AsTheyCome:
        """As :meth:`RowSchema.sorter`."""
        return AsTheyCome(self._stored)

    def check_sizes(self, rows: int, sizes: Mapping[str, int]) -> None:
        """As :meth:`RowSchema.check_sizes`."""
        if sizes["vectors"] != rows * self.dim * self._stored_dtype.itemsize:
            raise ValueError(f"vectors: expected {rows} rows, found {sizes['vectors']} bytes")

    def decode(self, content: Mapping[str, Buffer], rows: int) -> Columns:
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

    def block(self, columns: Columns, images: Int64Array, alive: BoolArray | None) -> VectorBlock:
        """As :meth:`RowSchema.block`."""
        return VectorBlock(columns["vectors"], images, alive)

    def queries(self, described: Sequence[Described]) -> Float32Array:
        """As :meth:`RowSchema.queries`: float32 ``(R, dim)``."""
        parts = [self._vectors(f"query {d.image!r}", d) for d in described]
        return np.concatenate([np.zeros((0, self.dim), np.float32), *parts])

    def check_score(self, score: float, queries: Float32Array) -> None:
        """As :meth:`RowSchema.check_score`."""
        longest = float(np.sqrt(np.einsum("rd,rd->r", queries, queries, dtype=np.float64).max()))
        if not score <= 1.001 * (1 + UNIT_TOLERANCE) * longest:
            raise DamagedIndexError(f"expected vectors of unit length, found one that scores {score:.4g}")

    def _stored(self, columns: Columns) -> Columns:
        return {"vectors": np.ascontiguousarray(columns["vectors"], dtype=self._stored_dtype)}

    @property
    def _stored_dtype(self) -> np.dtype[np.generic]:
        return np.dtype(self.dtype).newbyteorder("<")


def check_unit(name: str, vectors: FloatArray) -> None:
    """Check that rows have unit length or are zero, since scores are inner products."""
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float32))
    wrong = np.flatnonzero((np.abs(lengths - 1) > UNIT_TOLERANCE) & (lengths != 0))
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"vectors of {name!r}: expected rows of unit length (or zero), found length {lengths[row]:.4g} in row {row}"
        )
