"""Aggregates the residuals of local features to one for each visual word of an image: ASMK, and its regional form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from objemb import checks
from objemb.aggregators._words import IMAGE, ITEMS, WordAggregator, of_image
from objemb.layers.codebook import InverseFrequency
from objemb.ops.words import Assigned, WordSums, signs, sums_by_region
from objemb.registry import plugin
from objemb.structures import MatchKernel, RegionFeatures, Regions, VisualWords, WordPlaces


@plugin
class Asmk(WordAggregator):
    """ASMK (Tolias, Avrithis and Jegou, "Image search with selective match kernels: aggregation across single and
    multiple images", IJCV 2016) and R-ASMK (Teichmann, Araujo, Zhu and Sim, "Detect-to-retrieve", CVPR 2019).

    The score of a query X and a row Y of the index is

        g(X) g(Y) sum over common words c of idf_c^2 sigma(<V_c(X), V_c(Y)>)

    where ``V_c`` is the normalised sum of the residuals of the features in word c (or its signs), ``sigma(u) =
    sign(u) |u|^alpha`` above ``tau`` and 0 below, and ``g(X)`` the inverse square root of the sum of ``idf_c^2`` over
    the words of X. For ``regional``, a row contains the words of the R-VLAD vector, which take no more memory than
    those of the photo; the query is always plain ASMK.

    Args:
        words: Number of visual words.
        form: ``image``, ``regional`` or ``items``, see :class:`objemb.aggregators._words.WordAggregator`.
        region_normalised: Whether, for ``regional``, the vector of each region is normalised to unit length first.
        binary: Whether residuals are stored as signs, one bit per component (ASMK*), or as floats.
        assignments: Number of words that a feature of the database is assigned to.
        query_assignments: Number of words that a feature of a query is assigned to, limited to ``words``.
        alpha: Exponent of sigma, at least 0.
        tau: Threshold of sigma.
        tau_inclusive: Whether a similarity of exactly ``tau`` counts.
        idf: Whether words are weighted by their inverse document frequency among the photos of ``--fit-on``.
        count_normalised: Whether scores are multiplied by the two factors g, so that the score of an image with itself
            is 1 (also called L2 normalisation or normalisation by word counts).
        positions: Whether an index stores the positions of features, so that hits can be verified and localised without
            opening photos; this takes 8 bytes and the signs of a residual per feature.
        iterations: Maximum number of iterations of k-means.
        samples: Number of features per word that k-means is run on.
        seed: Seed of k-means.
    """

    gives = VisualWords
    kernel: MatchKernel

    def __init__(
        self,
        *,
        words: int = 4096,
        form: str = IMAGE,
        region_normalised: bool = True,
        binary: bool = True,
        assignments: int = 1,
        query_assignments: int = 3,
        alpha: float = 3.0,
        tau: float = 0.0,
        tau_inclusive: bool = False,
        idf: bool = False,
        count_normalised: bool = True,
        positions: bool = False,
        iterations: int = 25,
        samples: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(
            words=words,
            form=form,
            region_normalised=region_normalised,
            iterations=iterations,
            samples=samples,
            seed=seed,
        )
        self.assignments = checks.whole("assignments", assignments)
        self.query_assignments = checks.whole("query_assignments", query_assignments)
        self.kernel = MatchKernel(
            words=words, binary=binary, alpha=alpha, tau=tau, tau_inclusive=tau_inclusive, positions=positions
        )
        self.count_normalised = checks.flag("count_normalised", count_normalised)
        self.weighted = checks.flag("idf", idf)
        self.idf: InverseFrequency | None = None

    def connect(self, dim: int) -> None:
        """See :meth:`ImageAggregator.connect`."""
        super().connect(dim)
        self.idf = InverseFrequency(self.words) if self.weighted else None  # fitted after the codebook

    @property
    def dim(self) -> int:
        """See :attr:`FeatureAggregator.dim`: the length of a residual."""
        return int(self.codebook.centres.shape[1])

    def samples(self, part: str, described: Sequence[RegionFeatures]) -> Tensor:
        """See :meth:`ImageAggregator.samples`. The idf is fitted on the words of whole photos."""
        if part != "idf":
            return super().samples(part, described)
        rows = []
        for one in described:
            features = of_image(one.regions, one.members)[:, 1]
            words = self.codebook.assign(one.features.vectors[features], self.assignments)
            rows.append(InverseFrequency.rows(np.unique(words)))
        return torch.cat([torch.zeros(0, 1), *rows])

    def aggregate(self, described: RegionFeatures) -> VisualWords:
        """See :meth:`ImageAggregator.aggregate`. Unless each region is a row, row 0 contains the words of the image,
        and its boxes follow as rows without words."""
        assigned = self.assigned(described.features.vectors, self.assignments)
        regions, sums = self.row_sums(described, assigned)
        if self.form != ITEMS:
            boxes = described.regions
            whole = len(boxes) > 0 and bool((boxes.boxes[0] == regions.boxes[0]).all())
            regions = boxes if whole else Regions.cat([regions, boxes])
        return self._rows(described, regions, sums, assigned)

    def aggregate_query(self, described: RegionFeatures) -> VisualWords:
        """See :meth:`FeatureAggregator.aggregate_query`: ASMK of each region, with more assignments."""
        assigned = self.assigned(described.features.vectors, self.query_assignments)
        return self._rows(described, described.regions, sums_by_region(assigned, described.members), assigned)

    def _rows(self, described: RegionFeatures, regions: Regions, sums: WordSums, assigned: Assigned) -> VisualWords:
        directions, _ = sums.directions()
        squares = np.ones(self.words) if self.idf is None else self.idf.array.astype(np.float64) ** 2
        weights = squares[directions.words]
        totals = np.bincount(directions.regions, weights=weights, minlength=len(regions))
        scaled = totals > 0 if self.count_normalised else np.zeros(len(regions), bool)
        scales = np.divide(1, np.sqrt(totals), out=np.ones(len(regions)), where=scaled)
        return VisualWords(
            described.image,
            regions,
            self.dim,
            directions.regions,
            directions.words.astype(np.int32),
            signs(directions.sums) if self.kernel.binary else directions.sums.astype(np.float32),
            weights.astype(np.float32),
            scales.astype(np.float32),
            self._places(described, assigned) if self.kernel.positions else None,
            described.metadata,
        )

    @staticmethod
    def _places(described: RegionFeatures, assigned: Assigned) -> WordPlaces:
        return WordPlaces(
            assigned.words[:, 0].astype(np.int32), described.features.points, signs(assigned.residuals[:, 0])
        )
