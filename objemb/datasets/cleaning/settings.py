"""Settings of the cleaning."""

from __future__ import annotations

from dataclasses import dataclass

from objemb import checks

#: An affine map has six unknowns, so that three pairs always fit; one more can contradict.
MIN_INLIERS = 4


@dataclass(frozen=True)
class CleaningSettings:
    """Settings of matching and of the choice of photos.

    Attributes:
        size: longest side in pixels at which features are found
        features: most features of a photo, the strongest ones
        enlarge: whether smaller photos are enlarged to that size
        ratio: a match has to be nearer than this share of the distance of the second nearest feature
        tolerance: distance of an inlier from its mapped point, as a share of the photo's longest side
        least: least number of inliers of a pair that counts
        candidates: partners of a photo that are tried, the most similar ones by a model; all without it
        smallest_view: keep every group of at least that many photos as an instance of its own, not only the largest
        val_share: share of the classes that are held out for validation, in lists of their own; 0 for none
        seed: seed of the choice of these classes
    """

    size: int = 1024
    features: int = 1000
    enlarge: bool = False
    ratio: float = 0.8
    tolerance: float = 0.01
    least: int = 12
    candidates: int | None = None
    smallest_view: int | None = None
    val_share: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        checks.whole("size", self.size, 16)
        checks.whole("features", self.features, MIN_INLIERS)
        checks.flag("enlarge", self.enlarge)
        checks.between("ratio", self.ratio, 0, 1)
        checks.between("tolerance", checks.positive("tolerance", self.tolerance), 0, 1)
        checks.whole("least", self.least, MIN_INLIERS)
        checks.between("val_share", self.val_share, 0, 1)
        checks.whole("seed", self.seed, 0)
        if self.candidates is not None:
            checks.whole("candidates", self.candidates)
        if self.smallest_view is not None:
            checks.whole("smallest_view", self.smallest_view, 2)

    @property
    def of_features(self) -> tuple[int, int, bool]:
        """What the features of a photo depend on."""
        return self.size, self.features, self.enlarge

    @property
    def of_pairs(self) -> tuple[int, int, bool, float, float, int]:
        """What the result of matching two photos depends on."""
        return *self.of_features, self.ratio, self.tolerance, self.least
