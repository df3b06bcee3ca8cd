"""Rewriting segments, and joining small ones while an index grows.

Every publication adds a segment, and every segment costs search time and some of a process's memory maps. So a writer
joins segments of similar size as soon as there are :data:`FANOUT` of them. Each row is thus rewritten only a few times,
and the number of segments stays below some dozens plus one for every :data:`LARGE` rows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from objemb.checks import DamagedIndexError
from objemb.index.storage.manifest import Manifest, SegmentRecord
from objemb.index.storage.schema import Columns
from objemb.index.storage.segment import Segment
from objemb.index.storage.segment_writer import SegmentWriter
from objemb.types import BoolArray

logger = logging.getLogger(__name__)

#: Segments of at least this weight are joined only by ``compact``.
LARGE = 65_536
#: Number of segments of a tier that become one of the next tier.
FANOUT = 16
#: Rows that are copied at a time.
CHUNK_ROWS = 8_192


def first_to_join(weights: Sequence[int], first: int) -> int:
    """Position from which all segments up to the last are to be joined; the number of segments for none.

    Segments of tier t have a weight from ``FANOUT**t`` to below ``FANOUT**(t + 1)``.

    Args:
        weights: Weights of the segments in order, see :meth:`objemb.index.storage.schema.RowSchema.weight`.
        first: Position of the first segment that may be joined.
    """
    tiers = [_tier(weight) for weight in weights]
    chosen = start = len(tiers)
    for tier in range(_tier(LARGE)):
        while start > first and tiers[start - 1] <= tier:
            start -= 1
        alike = sum(t == tier for t in tiers[start:])
        if alike + (chosen < len(tiers)) >= FANOUT:  # those chosen before will be one more of this tier
            chosen = start
    return chosen


def join_small(
    folder: Path, manifest: Manifest, output: SegmentWriter, done: Sequence[SegmentRecord]
) -> list[SegmentRecord]:
    """The segments of the next state, with small ones joined; deleted images are kept until ``compact``.

    Args:
        folder: Folder of the index.
        manifest: The published state. Segments covered by a search structure are not joined.
        output: Writer of the new segments, without an open segment.
        done: Segments written since that state.
    """
    records = [*manifest.segments, *done]
    weights = [manifest.weight(r) for r in records]
    first = first_to_join(weights, max((s.segments for s in manifest.structures), default=0))
    if first == len(records):
        return records
    try:
        for record in records[first:]:
            for part in chunks(Segment(folder, record, manifest.schema), None):
                output.append(*part)
    except DamagedIndexError as error:  # new segments can still be published
        logger.warning("%s: small segments are not joined: %s", folder, error)
        output.abandon()
        return records
    output.close_segment()
    return records[:first] + output.done


def chunks(segment: Segment, keep: BoolArray | None) -> Iterator[tuple[Columns, pa.Table, pa.Table]]:
    """Yield the images selected by ``keep`` (bool ``(images,)``, None for all), some thousand regions at a time."""
    segment.check_columns()  # else damaged data would get a new, valid checksum
    _ = segment.row_images  # likewise for tables that do not fit together
    weights = segment.starts + np.arange(len(segment.starts))  # an image without regions counts as well
    begin = 0
    while begin < segment.record.images:
        end = max(begin + 1, int(np.searchsorted(weights, weights[begin] + CHUNK_ROWS, side="right")) - 1)
        kept = np.ones(end - begin, dtype=bool) if keep is None else keep[begin:end]
        if kept.any():
            first, last = int(segment.starts[begin]), int(segment.starts[end])
            kept_rows = np.repeat(kept, segment.counts[begin:end])
            rows, images = segment.rows.slice(first, last - first), segment.images.slice(begin, end - begin)
            yield (
                segment.schema.select(segment.columns, first, kept_rows),
                pa.Table.from_batches([rows]).filter(pa.array(kept_rows)),
                pa.Table.from_batches([images]).filter(pa.array(kept)),
            )
        begin = end


def _tier(weight: int) -> int:
    return (max(weight, 1).bit_length() - 1) // (FANOUT.bit_length() - 1)
