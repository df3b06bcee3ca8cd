"""Common functions of re-rankers that open the photos of hits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from objemb.ops.tensors import as_tensor, l2
from objemb.rerank.base import Search, put_first, scored
from objemb.structures import Match, Photo, Regions, SearchResult


def box_vector(search: Search, photo: Photo, boxes: Regions) -> Tensor:
    """Unit vectors ``(N, D)`` of boxes, described in their photo by the describer of the search."""
    (described,) = search.needed_describer().describe([photo], [boxes])
    return as_tensor(described.vectors)


def with_photos(search: Search, hits: Iterable[Match]) -> Iterator[tuple[Match, Photo]]:
    """Hits with their photos, one after another; those whose photo can no longer be opened are left out."""
    for hit in hits:
        photo = search.found_photo(hit.image)
        if photo is not None:
            yield hit, photo


def expanded(
    result: SearchResult, hits: Sequence[Match], vectors: Sequence[Tensor], query: Tensor, mixed: int
) -> SearchResult:
    """Rank hits by the similarity of their vectors to the query, then again by that to the mean of the query and the
    best of them: the query expansion of re-rankers that open photos.

    Args:
        result: The result before re-ranking, which contains the hits.
        hits: ``n`` hits with their new boxes; if there are none, the result is unchanged.
        vectors: ``n`` unit vectors ``(D,)`` of these boxes.
        query: ``(D,)``.
        mixed: Number of first vectors averaged with the query; 0 for none.
    """
    if not hits:
        return result
    rows = torch.stack(list(vectors))
    scores = rows @ query
    if mixed:
        first = scores.argsort(descending=True, stable=True)[:mixed]
        scores = rows @ l2(torch.cat([query[None], rows[first]]).mean(dim=0, keepdim=True))[0]
    return put_first(result, [scored(hit, float(s)) for hit, s in zip(hits, scores, strict=True)])


def moved(hit: Match, box: Sequence[float]) -> Match:
    """A hit with another matched box, without its runners-up, which belong to the old box."""
    x1, y1, x2, y2 = (float(v) for v in box)
    return replace(hit, box=(x1, y1, x2, y2), runners_up=())
