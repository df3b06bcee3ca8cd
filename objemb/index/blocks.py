"""What a search reads and what it returns: blocks of rows in, hits grouped to images out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from objemb.index.codes import Codes

#: Fills the places of ``GroupedHits`` for which there was no image.
NO_HIT = -1


@dataclass(frozen=True, eq=False)
class Block:
    """A run of region rows, such as a segment of an index.

    Attributes:
        vectors: float32 or float16 ``(n, D)``; may be a read-only memory map.
        images: int64 ``(n,)``, the internal image of each row; rows of an image are adjacent and in one block only.
        alive: bool ``(n,)``, False for rows that no search may return (deleted, filtered out); None for all alive.
        codes: 8-bit stand-ins of the vectors from :func:`objemb.index.codes.encode`, which make exact search several
            times faster; None to read the vectors themselves.
    """

    vectors: NDArray[np.floating]
    images: NDArray[np.int64]
    alive: NDArray[np.bool_] | None = None
    codes: Codes | None = None

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or self.vectors.dtype not in (np.float32, np.float16):
            raise ValueError(
                "Block.vectors: expected float32 or float16 (n, D), "
                f"found {self.vectors.dtype} {tuple(self.vectors.shape)}"
            )
        columns = {"images": self.images, "alive": self.alive, "codes": self.codes}
        for name, column in columns.items():
            if column is not None and len(column) != len(self.vectors):
                raise ValueError(f"Block.{name}: expected {len(self.vectors)} rows, found {len(column)}")

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True, eq=False)
class GroupedHits:
    """The best images of Q queries, best first, each image once.

    Attributes:
        images: int64 ``(Q, k)`` internal images, ``NO_HIT`` where there was none.
        scores: float32 ``(Q, k)``, the largest inner product of a row of the image and a row of the query; -inf.
        rows: int64 ``(Q, k)``, position of the matched row counted through all blocks in order; ``NO_HIT``.
        query_rows: int64 ``(Q, k)``, position of the query row that it matched; ``NO_HIT``.
    """

    images: NDArray[np.int64]
    scores: NDArray[np.float32]
    rows: NDArray[np.int64]
    query_rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)


class RowTable:
    """Rows of several blocks under one numbering, looked up without copying the blocks.

    Attributes:
        starts: int64 ``(blocks + 1,)``, the number of the first row of each block, then the count of all rows.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = tuple(blocks)
        widths = {b.vectors.shape[1] for b in self.blocks}
        if len(widths) > 1:
            raise ValueError(f"blocks: expected vectors of one length, found {sorted(widths)}")
        self.dim: int | None = next(iter(widths), None)
        self.starts = np.cumsum([0, *(len(b) for b in self.blocks)], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def images(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The image of each row, int64 ``(P,)``."""
        return self._look_up(rows, np.empty(len(rows), dtype=np.int64), lambda block: block.images)

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vector of each row, float32 ``(P, D)``."""
        return self._look_up(rows, np.empty((len(rows), self.dim or 0), dtype=np.float32), lambda block: block.vectors)

    def _look_up(self, rows, out, column):  # type: ignore[no-untyped-def]
        """Fill ``out`` with ``column(block)[row]``; rows of blocks without that column keep what ``out`` holds."""
        if len(self.blocks) == 1:
            values = column(self.blocks[0])
            return out if values is None else values[rows].astype(out.dtype, copy=False)
        home = np.searchsorted(self.starts, rows, side="right") - 1
        for number in np.unique(home):
            values = column(self.blocks[number])
            if values is not None:
                here = home == number
                out[here] = values[rows[here] - self.starts[number]]
        return out
