"""Results ranked by how well all regions of the query match."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from objemb import checks
from objemb.registry import plugin
from objemb.rerank._database import as_boxes
from objemb.rerank.base import Reranker, Search, ranked_first
from objemb.structures import ImageRows, Match, RegionDescriptors, Regions, SearchResult
from objemb.structures.fields import checked_box
from objemb.structures.results import COSINE, NO_METADATA
from objemb.types import BoolArray, Float32Array, Int64Array

#: Ways to compute the score of an image from its pairs of regions.
SCORES = ("mean", "mutual", "max")
#: The scale of scores over all regions of the query.
MEAN_COSINE = "mean of the cosine similarities of the query's regions, at most 1"
#: Maximum number of runners-up of a match.
RUNNERS_UP = 3
#: Share of a region's area that has to be inside a query box for the region to belong to it.
INSIDE = 0.5
#: IoU above which two regions are taken for the same.
SAME = 0.99


@plugin
class RegionMatch(Reranker):
    """Many-to-many matching of regions (cross matching: Razavian, Sullivan, Carlsson, Maki, Visual instance retrieval
    with deep convolutional networks, 2014).

    A plain search scores an image by its one best pair of regions. Here every region of the query looks for its best
    region in the image, and all of them count. With a single query region nothing changes, unless ``look`` finds more.

    A match keeps the best pair of boxes; the other pairs are its runners-up, whose scores are cut to that of the match.

    Args:
        top: Number of first hits that are re-ranked.
        score: ``mean``: the mean of the best similarities of the query regions. ``mutual``: the same, but a pair that
            is not also the best one for the region of the image counts 0, so that a region is matched once. ``max``:
            the best pair only, as in a plain search.
        look: Whether to add the regions that the describer finds in the photo of the query, if at least half of their
            area is inside a query box; regions that equal a query box are not added.
    """

    def __init__(self, *, top: int = 100, score: str = "mean", look: bool = False) -> None:
        self.depth = self.top = checks.whole("top", top)
        self.score = checks.one_of("score", score, SCORES)
        self.look = checks.flag("look", look)
        self.scale = COSINE if score == "max" else MEAN_COSINE

    def rerank(self, search: Search) -> Search:
        """The first hits by their new scores, then the others."""
        results = [self._ranked(search, number) for number in range(len(search.queries))]
        return replace(search, results=tuple(results))

    def _ranked(self, search: Search, number: int) -> SearchResult:
        result, query = search.results[number], search.queries[number]
        if not len(result) or not len(query):
            return result
        if self.look:
            query = _looked_at(search, number)
        if len(query) == 1 and search.is_as_found(number):
            return result  # the best pair of each image is the one that was found
        rows = search.database.rows_of_images(result.images[: self.top])
        return self._matched(result, rows, query, search.is_as_found(number))

    def _matched(self, result: SearchResult, rows: ImageRows, query: RegionDescriptors, bare: bool) -> SearchResult:
        """A result with the new scores and pairs of its first hits; those without rows come last.

        Args:
            result: The result.
            rows: The rows of its first hits.
            query: The rows that are compared with them.
            bare: Whether the hits are known to have no metadata.
        """
        filled = (rows.starts[1:] > rows.starts[:-1]).nonzero()[0]
        if not len(filled):
            return result
        starts, positions = rows.starts[filled], filled.tolist()
        products = rows.vectors @ query.vectors.T
        best = np.maximum.reduceat(products, starts, axis=0)  # (images, query rows)
        scores = self._scores(products, best, starts)
        if not np.isfinite(scores).all():
            raise ValueError("region_match: expected finite vectors, found others")
        shown = np.argsort(-best, axis=1, kind="stable")[:, : 1 + RUNNERS_UP]
        of_pairs = np.minimum(best[np.arange(len(best))[:, None], shown], scores[:, None])
        of_pairs[:, 0] = scores
        query_boxes = as_boxes(query.regions.boxes.tolist())
        ends = rows.starts.tolist()

        def match(n: int) -> Match:
            position, columns = positions[n], shown[n]
            first = ends[position]
            own = products[first : ends[position + 1], columns].argmax(axis=0) + first
            # boxes of an index may be damaged
            boxes = [checked_box("Match.box", box) for box in rows.boxes[own].tolist()]
            pairs = list(zip(of_pairs[n].tolist(), boxes, (query_boxes[q] for q in columns.tolist()), strict=True))
            metadata = NO_METADATA if bare else result[position].metadata
            return Match.of_pairs(rows.images[position], pairs, metadata)

        return ranked_first(result, positions, scores, match, query_boxes, self.scale or result.scale)

    def _scores(self, products: Float32Array, best: Float32Array, starts: Int64Array) -> Float32Array:
        """The scores of images.

        Args:
            products: float32 ``(n, Q)``, of the rows of all images and the query rows.
            best: float32 ``(images, Q)``, the largest of each image for each query row.
            starts: int64 ``(images,)``, the first row of each image, which has at least one.
        """
        if self.score == "max":
            largest: Float32Array = best.max(axis=1)
            return largest
        if self.score == "mutual":
            is_best = products == np.repeat(best, np.diff(starts, append=len(products)), axis=0)
            numbers = np.where(is_best, np.arange(len(products))[:, None], len(products))
            first = np.minimum.reduceat(numbers, starts, axis=0)
            best = np.where(products.argmax(axis=1)[first] == np.arange(best.shape[1]), best, 0)
        mean: Float32Array = best.sum(axis=1) / np.float32(best.shape[1])
        return mean


def _looked_at(search: Search, number: int) -> RegionDescriptors:
    """The rows of a query, and those of the regions that the describer finds inside its boxes."""
    query = search.queries[number]
    (found,) = search.needed_describer().describe([search.query_photo(number)])
    inside = found[_within(found.regions, query.regions)]
    regions = Regions(np.concatenate([query.regions.boxes, inside.regions.boxes]), query.regions.size)
    return replace(query, regions=regions, vectors=np.concatenate([query.vectors, inside.vectors]))


def _within(regions: Regions, wanted: Regions) -> BoolArray:
    """bool ``(N,)``: regions that are at least half inside one of the wanted ones, and do not equal it."""
    from objemb.ops.boxes import area, intersection, iou
    from objemb.ops.tensors import as_tensor  # imported here, since only the describer of a PyTorch model finds regions

    boxes, others = as_tensor(regions.boxes), as_tensor(wanted.boxes)
    shared = intersection(boxes[:, None], others[None]).amax(dim=1)
    areas = area(boxes)
    known = (iou(boxes, others) > SAME).any(dim=1)
    return ((shared >= INSIDE * areas) & (areas > 0) & ~known).numpy()
