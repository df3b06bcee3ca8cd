"""Which regions and local features of two images agree, by their visual words and the places of their features."""

from __future__ import annotations

import numpy as np

from objemb.structures import MatchKernel, VisualWords, WordPlaces
from objemb.structures.fields import points_inside
from objemb.types import Float64Array, Int64Array, Uint8Array


def region_scores(query: VisualWords, row: int, stored: VisualWords, kernel: MatchKernel) -> Float64Array:
    """How much each region of an image has of a query: the match kernel of the features inside it.

    The residual of a word in a region is taken from the signs of the residuals of its features, which is what is kept
    of them: the sign of their sum, or for residuals that are no signs that sum at unit length. A region is normalised
    by the root of the number of its words, so that a large one does not win by having more of them.

    Args:
        query: The query.
        row: The row of it that is asked for.
        stored: The image, with the places of its features.
        kernel: The kernel of both.

    Returns:
        float64, one for each region of ``stored``; 0 where no word of the query lies in a region.

    Raises:
        ValueError: The places of the image are not known.
    """
    places = _needed_places(stored)
    regions = np.zeros(len(stored.regions), np.float64)
    inside = points_inside(places.points, stored.regions.boxes)
    asked = query.rows == row
    words, residuals, weights = query.words[asked], query.residuals[asked], query.weights[asked]
    of_region, features = np.nonzero(inside)
    counts = np.bincount(np.unique(of_region * kernel.words + places.words[features]) // kernel.words)
    kept = np.isin(places.words[features], words)
    of_region, features = of_region[kept], features[kept]
    if not len(features):
        return regions
    keys = of_region * kernel.words + places.words[features]
    order = np.argsort(keys, kind="stable")
    found, firsts = np.unique(keys[order], return_index=True)
    sums = np.add.reduceat(_as_signs(places.codes[features[order]], query.dim), firsts)
    at = np.searchsorted(words, found % kernel.words)
    if query.binary:
        similarities = (np.where(sums > 0, 1.0, -1.0) * _as_signs(residuals[at], query.dim)).mean(axis=1)
    else:
        lengths = np.linalg.norm(sums, axis=1)
        products = np.einsum("nd,nd->n", sums, residuals[at].astype(np.float64))
        similarities = np.divide(products, lengths, out=np.zeros(len(sums)), where=lengths > 0)
    np.add.at(regions, found // kernel.words, weights[at] * kernel.sigma(similarities))
    regions[: len(counts)] /= np.sqrt(np.maximum(counts, 1))
    return regions


def matched_places(first: WordPlaces, second: WordPlaces, dim: int, least: float) -> Int64Array:
    """Pairs ``(n, 2)`` of features in the same word whose residuals have similar signs: numbers in both.

    Of the features of ``second`` that come into question for one of ``first``, the most similar one is taken.

    Args:
        first, second: Features of two images.
        dim: Length of the residuals.
        least: Least inner product of the signs, as a share of ``dim``: from -1 to 1.
    """
    order = np.argsort(second.words, kind="stable")
    sorted_words = second.words[order]
    starts = np.searchsorted(sorted_words, first.words, side="left")
    counts = np.searchsorted(sorted_words, first.words, side="right") - starts
    asking = np.repeat(np.arange(len(first)), counts)
    offsets = np.arange(len(asking)) - np.repeat(np.cumsum(counts) - counts, counts)
    answering = order[np.repeat(starts, counts) + offsets]
    different = np.bitwise_count(first.codes[asking] ^ second.codes[answering]).sum(axis=1, dtype=np.int64)
    similarities = 1 - 2 * different / dim
    kept = similarities >= least
    asking, answering, similarities = asking[kept], answering[kept], similarities[kept]
    best = np.lexsort((answering, -similarities, asking))
    _, firsts = np.unique(asking[best], return_index=True)
    return np.stack([asking[best][firsts], answering[best][firsts]], axis=1).astype(np.int64)


def _needed_places(stored: VisualWords) -> WordPlaces:
    if stored.places is None:
        raise ValueError(
            f"{stored.image!r}: expected the places of its local features (aggregator.positions=true), found none"
        )
    return stored.places


def _as_signs(codes: Uint8Array, dim: int) -> Float64Array:
    """Packed signs as -1 and 1, ``(n, dim)``."""
    return np.unpackbits(codes, axis=1, count=dim).astype(np.float64) * 2 - 1
