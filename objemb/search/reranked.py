"""Re-ranked answers from an index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from objemb import registry
from objemb.checks import ObjembError
from objemb.config import parse_part
from objemb.images.decode import MAX_PIXELS, read_photo
from objemb.index.filters.parser import parse
from objemb.index.store import Index
from objemb.models import Model
from objemb.rerank._database import Database
from objemb.rerank.base import Reranker, search_and_rerank
from objemb.search.indexing import indexed_photo, photo_path
from objemb.structures import Match, Photo, RegionDescriptors, SearchResult

#: What to say instead of the name of a re-ranker to go without the model's own.
NONE = "none"


def rerankers_of(model: Model, steps: Sequence[str]) -> tuple[Reranker, ...]:
    """The re-rankers that a command line names, such as ``query_expansion,top=5``; without any, the model's own."""
    if list(steps) == [NONE]:
        return ()
    return tuple(registry.build(Reranker, parse_part("rerank", step)) for step in steps) or model.rerankers


def search_reranked(
    index: Index,
    model: Model,
    query: RegionDescriptors,
    photo: Path,
    rerankers: Sequence[Reranker],
    k: int,
    where: str | None,
    max_pixels: int = MAX_PIXELS,
) -> SearchResult:
    """The ``k`` best images after re-ranking, with labels and metadata as an index gives them.

    Args:
        index: Searched exactly; its vectors are taken into memory unless it is a single segment.
        model: What described it.
        query: What to search for.
        photo: The photo of the query.
        rerankers: What to do with the results, in order.
        k: Number of images.
        where: A filter on what may be found.
        max_pixels: Larger photos are not opened.

    Raises:
        ValueError: A re-ranker looks into photos, and the index does not know where any of them is.
    """
    stamps = index.stamps()

    def open_photo(image: str) -> Photo:
        path = indexed_photo(stamps[image])
        if path is not None:
            return read_photo(path, id=image, max_pixels=max_pixels)
        if all(photo_path(stamp) is None for stamp in stamps.values()):
            raise ValueError("--rerank: expected an index that knows where its photos are, found none of them in it")
        raise ObjembError(f"{image}: its photo has gone, or changed since it was indexed")

    database = Database.of_index(index, where, open_photo)
    search = search_and_rerank(
        [query], database, rerankers, k, model.describer, lambda number: read_photo(photo, max_pixels=max_pixels)
    )
    (result,) = search.results
    return replace(result, hits=tuple(_named(index, hit) for hit in result.hits[:k]))


def without(images: Sequence[str], where: str | None) -> str | None:
    """A filter that leaves out some images beside what ``where`` leaves out."""
    if not images:
        return where
    if where is not None:
        parse(where)  # so that the message about a mistake points at the place in what was written
    names = ", ".join("'" + image.replace("'", "''") + "'" for image in images)
    return f"image not in ({names})" + ("" if where is None else f" and ({where})")


def _named(index: Index, hit: Match) -> Match:
    """A match with what the index knows of its image, and the label of its box if that is one of the index."""
    stored = index.get(hit.image)
    if stored is None:
        return hit
    boxes = [tuple(box) for box in stored.regions.boxes.tolist()]
    label = stored.regions.label_names[boxes.index(hit.box)] if hit.box in boxes else None
    return replace(hit, label=label, metadata=stored.metadata)
