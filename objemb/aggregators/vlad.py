"""Aggregates the residuals of local features to visual words into one vector: VLAD, and its regional form."""

from __future__ import annotations

import numpy as np

from objemb import checks
from objemb.aggregators._words import IMAGE, WordAggregator
from objemb.ops.words import WordSums, sums_by_region, vlad
from objemb.registry import plugin
from objemb.structures import RegionDescriptors, RegionFeatures, Regions


@plugin
class Vlad(WordAggregator):
    """VLAD (Jegou, Douze, Schmid and Perez, "Aggregating local descriptors into a compact image representation", CVPR
    2010) and R-VLAD (Teichmann, Araujo, Zhu and Sim, "Detect-to-retrieve", CVPR 2019).

    ``V_k`` is the sum of ``x - c_k`` over the features x whose nearest word is k. The concatenation of all ``V_k`` is a
    vector of ``words * dim`` components, which an index stores like any other. For ``regional``, it is the mean of the
    normalised vectors of all regions.

    Args:
        words: Number of visual words.
        form: ``image``, ``regional`` or ``items``, see :class:`objemb.aggregators._words.WordAggregator`.
        region_normalised: Whether, for ``regional``, the vector of each region is normalised to unit length first.
        unit: Whether the vectors are normalised to unit length at the end. Detect-to-retrieve does not normalise the
            mean, so that a photo with dissimilar regions has a shorter vector and lower scores. Such vectors can be
            evaluated, but an index requires unit vectors.
        iterations: Maximum number of iterations of k-means.
        samples: Number of features per word that k-means is run on.
        seed: Seed of k-means.
    """

    gives = RegionDescriptors

    def __init__(
        self,
        *,
        words: int = 64,
        form: str = IMAGE,
        region_normalised: bool = True,
        unit: bool = True,
        iterations: int = 25,
        samples: int = 256,
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
        self.unit = checks.flag("unit", unit)

    @property
    def dim(self) -> int:
        """See :attr:`FeatureAggregator.dim`: ``words`` times the length of the features."""
        return self.codebook.centres.numel()

    def aggregate(self, described: RegionFeatures) -> RegionDescriptors:
        """See :meth:`ImageAggregator.aggregate`."""
        assigned = self.assigned(described.features.vectors, 1)
        return self._rows(described, *self.row_sums(described, assigned))

    def aggregate_query(self, described: RegionFeatures) -> RegionDescriptors:
        """See :meth:`FeatureAggregator.aggregate_query`: the VLAD vector of each region."""
        assigned = self.assigned(described.features.vectors, 1)
        return self._rows(described, described.regions, sums_by_region(assigned, described.members))

    def _rows(self, described: RegionFeatures, regions: Regions, sums: WordSums) -> RegionDescriptors:
        vectors = vlad(sums, len(regions), self.words)
        if self.unit:
            lengths = sums.lengths(len(regions))[:, None]
            vectors = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
        return RegionDescriptors(described.image, regions, vectors.astype(np.float32), described.metadata)
