"""Turns matched rows into results with ids, boxes, labels and metadata."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from objemb.index.blocks import Block, GroupedHits
from objemb.index.storage import tables
from objemb.index.storage.errors import DamagedIndexError
from objemb.index.storage.segment import Segment
from objemb.index.storage.snapshot import Snapshot
from objemb.structures import Box, Described, Match, Scalar, SearchResult


def to_results(
    snapshot: Snapshot,
    blocks: Sequence[Block],
    queries: Sequence[Described],
    hits: GroupedHits,
    runners_up: int,
) -> list[SearchResult]:
    """Hits with ids, boxes, labels, metadata and the next best pairs of boxes.

    Args:
        snapshot: The state that was searched.
        blocks: The blocks that were searched, one per segment; rows that are not alive are no runners-up either.
        queries: Q queries of one or more regions each.
        hits: ``(Q, k)``; ``query_rows`` counts through the regions of all queries.
        runners_up: How many further pairs to give per image.
    """
    segments = np.searchsorted(snapshot.first_rows, hits.rows, side="right") - 1
    first_query_row = 0
    answers = []
    images: dict[int, tuple[str, dict[str, Scalar]]] = {}
    for number, query in enumerate(queries):
        rows, boxes = snapshot.manifest.schema.queries([query]), _boxes(query.regions.boxes.tolist())
        matches = []
        for rank in np.flatnonzero(hits.images[number] >= 0).tolist():
            place = int(segments[number, rank])
            image = _Image(snapshot.segments[place], blocks[place], int(hits.images[number, rank]))
            row = int(hits.rows[number, rank] - snapshot.first_rows[place])
            query_row = int(hits.query_rows[number, rank]) - first_query_row
            score = float(hits.scores[number, rank])
            if image.number not in images:
                images[image.number] = (image.id, image.metadata)
            id_, metadata = images[image.number]
            pairs = image.pairs((score, row, query_row), rows, runners_up)
            try:
                best, *rest = (
                    Match(id_, s, image.box(r), boxes[q], image.segment.label(r), metadata) for s, r, q in pairs
                )
                matches.append(Match(id_, score, best.box, best.query_box, best.label, metadata, tuple(rest)))
            except (ValueError, TypeError) as error:  # the query has been checked: what the index holds is wrong
                raise DamagedIndexError(f"{snapshot.folder}: image {id_!r}: {error}") from error
        if len({m.image for m in matches}) != len(matches):
            raise DamagedIndexError(f"{snapshot.folder}: expected every id once, found an image twice")
        answers.append(SearchResult(query.image, tuple(boxes), tuple(matches), snapshot.manifest.schema.scale))
        first_query_row += len(query)
    return answers


class _Image:
    """An image among the hits."""

    def __init__(self, segment: Segment, block: Block, number: int) -> None:
        self.segment = segment
        self.number = number
        self._block = block
        self._position = int(np.searchsorted(segment.numbers, number))

    @property
    def id(self) -> str:
        return self.segment.image_id(self._position)

    @property
    def metadata(self) -> dict[str, Scalar]:
        return tables.metadata_from_bytes(self.segment.images.column("metadata")[self._position].as_py())

    def box(self, row: int) -> Box:
        x1, y1, x2, y2 = self.segment.boxes[row].tolist()
        return (x1, y1, x2, y2)

    def pairs(self, best: tuple[float, int, int], query: Any, count: int) -> list[tuple[float, int, int]]:
        """As :meth:`objemb.index.blocks.Block.pairs_of_image`."""
        start, stop = self.segment.starts[self._position : self._position + 2].tolist()
        return self._block.pairs_of_image(slice(start, stop), best, query, count)


def _boxes(boxes: list[list[float]]) -> list[Box]:
    return [(x1, y1, x2, y2) for x1, y1, x2, y2 in boxes]
