"""Sums of the residuals of local features to visual words by region, the basis of VLAD and ASMK.

VLAD: Jegou, Douze, Schmid and Perez, "Aggregating local descriptors into a compact image representation", CVPR 2010.
ASMK: Tolias, Avrithis and Jegou, "Image search with selective match kernels", IJCV 2016. Regional forms: Teichmann,
Araujo, Zhu and Sim, "Detect-to-retrieve: efficient regional aggregation for image search", CVPR 2019.

Sums are computed in float64, so that the sign of a small residual does not depend on the order of its features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch.nn.functional import embedding_bag

from objemb.ops.tensors import as_tensor
from objemb.types import Float32Array, Float64Array, Int64Array, Uint8Array

#: Sums of residuals up to this length are taken for zero, and their words are dropped (as in detect-to-retrieve).
NO_DIRECTION = 1e-6


@dataclass(frozen=True, eq=False)
class Assigned:
    """Features with the words that they are assigned to.

    Attributes:
        words: int64 ``(N, a)``, the nearest first; a may be above 1 for a query.
        residuals: float64 ``(N, a, D)``, each feature minus the centre of each of its words.
    """

    words: Int64Array
    residuals: Float64Array

    @staticmethod
    def of(vectors: Float32Array, centres: Float32Array, words: Int64Array) -> Assigned:
        """Create from features float32 ``(N, D)``, centres float32 ``(k, D)`` and words int64 ``(N, a)``."""
        return Assigned(words, vectors[:, None].astype(np.float64) - centres.take(words, axis=0))


@dataclass(frozen=True, eq=False)
class WordSums:
    """Sums of residuals by region and word, the blocks ``V_k`` of VLAD, in ascending order without duplicates.

    Attributes:
        regions: int64 ``(M,)``.
        words: int64 ``(M,)``.
        sums: float64 ``(M, D)``.
    """

    regions: Int64Array
    words: Int64Array
    sums: Float64Array

    def lengths(self, regions: int) -> Float64Array:
        """The length of each region's VLAD vector, float64 ``(regions,)``."""
        squares = np.einsum("md,md->m", self.sums, self.sums)
        return np.sqrt(np.bincount(self.regions, weights=squares, minlength=regions))

    def directions(self) -> tuple[WordSums, Float64Array]:
        """The sums that are not zero, normalised to unit length, and their lengths, float64 ``(M,)``."""
        lengths = np.sqrt(np.einsum("md,md->m", self.sums, self.sums))
        kept = lengths > NO_DIRECTION
        lengths = lengths[kept]
        return WordSums(self.regions[kept], self.words[kept], self.sums[kept] / lengths[:, None]), lengths


def sums_by_region(assigned: Assigned, members: Int64Array) -> WordSums:
    """The sums of each region over the features in it: ``V_k = sum over x in the region with q(x) = k of (x - c_k)``.

    Args:
        assigned: All features of an image.
        members: int64 ``(P, 2)``, pairs of a region and a feature in it.
    """
    regions, features = members.T
    count = assigned.words.shape[1]
    words = assigned.words[features].ravel()
    rows = (features[:, None] * count + np.arange(count)).ravel()
    return _summed(np.repeat(regions, count), words, assigned, rows, None)


def mean_over_regions(assigned: Assigned, members: Int64Array, regions: int, normalised: bool = True) -> WordSums:
    """The mean of the VLAD vectors of regions, as a single region 0: R-VLAD, and the basis of R-ASMK.

    A region without features has a vector of zeros. The sums by region are needed for their lengths only: the mean is a
    sum over the features, weighted by the total weight of the regions that contain each.

    Args:
        assigned: All features of an image.
        members: As for :func:`sums_by_region`.
        regions: Number of regions.
        normalised: Whether the vector of each region is normalised to unit length first, as in detect-to-retrieve;
            otherwise regions with many features have more weight.
    """
    if normalised:
        lengths = sums_by_region(assigned, members).lengths(regions)
        of_region = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0) / max(1, regions)
    else:
        of_region = np.full(regions, 1 / max(1, regions))
    weights = np.bincount(members[:, 1], weights=of_region[members[:, 0]], minlength=len(assigned.words))
    count = assigned.words.shape[1]
    rows = (np.unique(members[:, 1])[:, None] * count + np.arange(count)).ravel()
    words = assigned.words.ravel()[rows]
    return _summed(np.zeros_like(words), words, assigned, rows, np.repeat(weights, count)[rows])


def vlad(sums: WordSums, regions: int, words: int) -> Float64Array:
    """The sums as vectors ``(regions, words * D)``, not normalised, with zeros for words without features."""
    dim = sums.sums.shape[1]
    vectors = np.zeros((regions, words, dim))
    vectors[sums.regions, sums.words] = sums.sums
    return vectors.reshape(regions, words * dim)


def signs(residuals: Float32Array | Float64Array) -> Uint8Array:
    """One bit for each component of ``(M, D)``, set if it is above 0: uint8 ``(M, ceil(D / 8))``, highest bit first."""
    return np.packbits(residuals > 0, axis=1)


def _summed(
    regions: Int64Array, words: Int64Array, assigned: Assigned, rows: Int64Array, weights: Float64Array | None
) -> WordSums:
    """Sums by region and word of the residuals that ``rows`` selects (from ``(N * a, D)``), optionally weighted."""
    dim = assigned.residuals.shape[2]
    if not len(rows):
        return WordSums(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, dim)))
    keys = regions * (int(words.max()) + 1) + words
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order], prepend=-1))
    sums = embedding_bag(  # selects, weights and sums in one pass, ten times as fast as np.add.reduceat
        as_tensor(rows[order]),
        as_tensor(assigned.residuals.reshape(-1, dim)),
        as_tensor(starts),
        mode="sum",
        per_sample_weights=None if weights is None else as_tensor(weights[order]),
    )
    first = order[starts]
    return WordSums(regions[first], words[first], sums.numpy())
