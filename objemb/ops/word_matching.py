"""Compares the regions and local features of two images by their visual words and the positions of their features."""

from __future__ import annotations

import numpy as np

from objemb.structures import MatchKernel, VisualWords, WordPlaces
from objemb.structures.fields import points_inside
from objemb.types import Float64Array, Int64Array, Uint8Array


def region_scores(query: VisualWords, row: int, stored: VisualWords, kernel: MatchKernel) -> Float64Array:
    """The similarity of each region of an image to a query: the match kernel of the features inside it.

    Only the signs of the features' residuals are stored. The residual of a word in a region is therefore the sum of
    these signs: its sign if residuals are binary, otherwise the normalised sum. The score of a region is divided by the
    square root of its number of words, so that large regions have no advantage.

    Args:
        query: The query.
        row: The row of the query.
        stored: The image, with the positions of its features.
        kernel: The kernel of both.

    Returns:
        float64, one for each region of ``stored``; 0 if a region contains no word of the query.

    Raises:
        ValueError: The positions of the image's features are not stored.
    """
    places = _needed_places(stored)
    regions = np.zeros(len(stored.regions), np.float64)
    inside = points_inside(places.points, stored.regions.boxes)
    of_row = query.rows == row
    words, residuals, weights = query.words[of_row], query.residuals[of_row], query.weights[of_row]
    of_region, features = np.nonzero(inside)
    counts = np.bincount(np.unique(of_region * kernel.words + places.words[features]) // kernel.words)
    kept = np.isin(places.words[features], words)
    of_region, features = of_region[kept], features[kept]
    if not len(features):
        return regions
    keys = of_region * kernel.words + places.words[features]
    order = np.argsort(keys, kind="stable")
    pairs, firsts = np.unique(keys[order], return_index=True)  # of a region and a word
    sums = np.add.reduceat(_as_signs(places.codes[features[order]], query.dim), firsts)
    at = np.searchsorted(words, pairs % kernel.words)
    if query.binary:
        similarities = (np.where(sums > 0, 1.0, -1.0) * _as_signs(residuals[at], query.dim)).mean(axis=1)
    else:
        lengths = np.linalg.norm(sums, axis=1)
        products = np.einsum("nd,nd->n", sums, residuals[at].astype(np.float64))
        similarities = np.divide(products, lengths, out=np.zeros(len(sums)), where=lengths > 0)
    np.add.at(regions, pairs // kernel.words, weights[at] * kernel.sigma(similarities))
    regions[: len(counts)] /= np.sqrt(np.maximum(counts, 1))
    return regions


def matched_places(first: WordPlaces, second: WordPlaces, dim: int, least: float) -> Int64Array:
    """Pairs ``(n, 2)`` of features, as numbers in both images, with the same word and similar signs of the residuals.

    A feature of ``first`` is paired with the most similar candidate in ``second``.

    Args:
        first, second: Features of two images.
        dim: Length of the residuals.
        least: Minimum inner product of the signs divided by ``dim``, from -1 to 1.
    """
    order = np.argsort(second.words, kind="stable")
    sorted_words = second.words[order]
    starts = np.searchsorted(sorted_words, first.words, side="left")
    counts = np.searchsorted(sorted_words, first.words, side="right") - starts
    queries = np.repeat(np.arange(len(first)), counts)
    offsets = np.arange(len(queries)) - np.repeat(np.cumsum(counts) - counts, counts)
    candidates = order[np.repeat(starts, counts) + offsets]
    different = np.bitwise_count(first.codes[queries] ^ second.codes[candidates]).sum(axis=1, dtype=np.int64)
    similarities = 1 - 2 * different / dim
    kept = similarities >= least
    queries, candidates, similarities = queries[kept], candidates[kept], similarities[kept]
    best = np.lexsort((candidates, -similarities, queries))
    _, firsts = np.unique(queries[best], return_index=True)
    return np.stack([queries[best][firsts], candidates[best][firsts]], axis=1).astype(np.int64)


def _needed_places(stored: VisualWords) -> WordPlaces:
    if stored.places is None:
        raise ValueError(
            f"{stored.image!r}: expected positions of its local features (aggregator.positions=true), found none"
        )
    return stored.places


def _as_signs(codes: Uint8Array, dim: int) -> Float64Array:
    """Packed signs as -1 and 1, ``(n, dim)``."""
    return np.unpackbits(codes, axis=1, count=dim).astype(np.float64) * 2 - 1
