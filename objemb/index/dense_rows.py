"""All rows of a state as one array, for methods that use the whole index instead of searching it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from objemb.index.blocks import Block
from objemb.index.storage import tables
from objemb.index.storage.segment import Segment
from objemb.structures import ImageRows
from objemb.types import Float32Array, FloatArray, Int64Array


def dense_rows_of(segments: Sequence[Segment], blocks: Sequence[Block], dim: int) -> ImageRows:
    """The unit vectors of all segments that are alive in ``blocks``, one per segment.

    Images stand in the order in which they were added. Vectors are the mapped file itself where the index is a single
    segment of float32 in which all rows are alive (as after ``compact``), otherwise a copy in memory.
    """
    alive = [slice(None) if b.alive is None else np.flatnonzero(b.alive) for b in blocks]
    images: list[str] = []
    items = [np.zeros(0, np.int64)]
    for segment, block, rows in zip(segments, blocks, alive, strict=True):
        numbers, of_rows = np.unique(block.images[rows], return_inverse=True)
        items.append(of_rows + len(images))
        ids = segment.images.column("id").take(np.searchsorted(segment.numbers, numbers)).to_pylist()
        images += [tables.to_text(i) for i in ids]
    boxes = [np.zeros((0, 4), np.float32), *(s.boxes[rows] for s, rows in zip(segments, alive, strict=True))]
    vectors = _dense([s.columns["vectors"] for s in segments], alive, dim)
    return ImageRows(tuple(images), vectors, np.concatenate(items), np.concatenate(boxes))


def _dense(vectors: Sequence[FloatArray], rows: Sequence[slice | Int64Array], dim: int) -> Float32Array:
    if len(vectors) == 1 and vectors[0].dtype == np.float32 and isinstance(rows[0], slice):
        return vectors[0]
    counts = [len(v) if isinstance(r, slice) else len(r) for v, r in zip(vectors, rows, strict=True)]
    ends = np.cumsum([0, *counts])
    dense = np.empty((int(ends[-1]), dim), dtype=np.float32)
    for number, (some, here) in enumerate(zip(vectors, rows, strict=True)):
        dense[ends[number] : ends[number + 1]] = some[here]
    return dense
