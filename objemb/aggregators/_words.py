"""A codebook, and the sums of residuals to its words over the regions of an image: what ``vlad`` and ``asmk`` share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from objemb import checks
from objemb.aggregators.base import FeatureAggregator
from objemb.layers.codebook import Codebook
from objemb.ops.words import Assigned, WordSums, mean_over_regions, sums_by_region
from objemb.structures import RegionFeatures, Regions
from objemb.types import Float32Array, Int64Array

#: The rows of a photo in the index: one for all its features; one for the mean over its regions; one for each region.
IMAGE, REGIONAL, ITEMS = "image", "regional", "items"
FORMS = (IMAGE, REGIONAL, ITEMS)


class WordAggregator(FeatureAggregator):
    """Sums the residuals of local features to their visual words.

    Args:
        words: Number of visual words.
        form: ``image``: the features of the whole photo. ``regional``: the mean over all regions, including the whole
            photo (Teichmann et al., CVPR 2019). ``items``: each region is a row, and the score of a photo is that of
            its best region (the regional search that they compare with).
        region_normalised: Whether, for ``regional``, the vector of each region is normalised to unit length before the
            mean, as in that paper.
        iterations: Maximum number of iterations of k-means.
        samples: Number of features per word that k-means is run on.
        seed: Seed of k-means.

    Attributes:
        codebook: The words; exists after :meth:`connect`.
    """

    codebook: Codebook

    def __init__(
        self, *, words: int, form: str, region_normalised: bool, iterations: int, samples: int, seed: int
    ) -> None:
        super().__init__()
        self.words = checks.whole("words", words, least=2)
        self.form = checks.one_of("form", form, FORMS)
        self.region_normalised = checks.flag("region_normalised", region_normalised)
        self.iterations = checks.whole("iterations", iterations)
        self.samples_per_word = checks.whole("samples", samples)
        self.seed = checks.whole("seed", seed, least=0)
        self.per_region = form == ITEMS

    def connect(self, dim: int) -> None:
        """See :meth:`ImageAggregator.connect`."""
        self.codebook = Codebook(
            dim, self.words, iterations=self.iterations, samples=self.samples_per_word, seed=self.seed
        )

    def samples(self, part: str, described: Sequence[RegionFeatures]) -> Tensor:
        """See :meth:`ImageAggregator.samples`. The codebook is fitted on all features of the photos."""
        if part != "codebook":
            return super().samples(part, described)
        dim = self.codebook.centres.shape[1]
        vectors = [np.zeros((0, dim), np.float32), *(one.features.vectors for one in described)]
        return torch.from_numpy(np.concatenate(vectors))

    def most_samples(self, part: str, features: int) -> int | None:
        """See :meth:`FeatureAggregator.most_samples`."""
        return features if part == "codebook" else super().most_samples(part, features)

    def assigned(self, vectors: Float32Array, count: int) -> Assigned:
        """Assign features float32 ``(N, D)`` to their ``count`` nearest words."""
        centres = self.codebook.array
        return Assigned.of(vectors, centres, self.codebook.assign(vectors, count))

    def row_sums(self, described: RegionFeatures, assigned: Assigned) -> tuple[Regions, WordSums]:
        """The boxes of an image's rows in the index, and the sums for each row."""
        regions, members = described.regions, described.members
        if self.form == ITEMS:
            return regions, sums_by_region(assigned, members)
        if self.form == REGIONAL:
            return enclosing(regions), mean_over_regions(
                assigned, members, len(regions), normalised=self.region_normalised
            )
        return enclosing(regions), sums_by_region(assigned, of_image(regions, members))


def is_whole(regions: Regions) -> bool:
    """Whether region 0 is the whole image."""
    height, width = regions.size
    return len(regions) > 0 and regions.boxes[0].tolist() == [0, 0, width, height]


def of_image(regions: Regions, members: Int64Array) -> Int64Array:
    """The features of an image as members ``(P, 2)`` of a single region 0: those of the whole image, or, if boxes were
    given without it, those in any box."""
    features = members[members[:, 0] == 0, 1] if is_whole(regions) else np.unique(members[:, 1])
    return np.stack([np.zeros_like(features), features], axis=1)


def enclosing(regions: Regions) -> Regions:
    """The box around all regions: region 0 if it is the whole image. No region if there are none."""
    if len(regions) == 0 or is_whole(regions):
        return regions[:1]
    boxes = regions.boxes
    return Regions(np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])[None], regions.size)
