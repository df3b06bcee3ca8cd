"""Looking into the photos of hits again: what the re-rankers that do so share."""

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
    """Hits with their photos, one after the other; those whose photo cannot be opened any more are left out."""
    for hit in hits:
        photo = search.found_photo(hit.image)
        if photo is not None:
            yield hit, photo


def expanded(
    result: SearchResult, hits: Sequence[Match], vectors: Sequence[Tensor], query: Tensor, mixed: int
) -> SearchResult:
    """Hits ranked by the similarity of a vector each, then once more by that to the query mixed with the best of them.

    The mean of the query and of the first vectors is the query expansion of the re-rankers that open photos.

    Args:
        result: What was found before; the hits are some of it.
        hits: ``n`` of them, with their new boxes; none, and the result stays as it is.
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
    """A hit whose matched box is another one; its runners-up, which belong to the old one, go."""
    x1, y1, x2, y2 = (float(v) for v in box)
    return replace(hit, box=(x1, y1, x2, y2), runners_up=())
