"""Which boxes a student learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from objemb import checks
from objemb.datasets.seeds import generator
from objemb.ops.arrays import as_tensor
from objemb.ops.boxes import area, clip, iou
from objemb.structures import Regions
from objemb.training.augment import jitter_boxes

SOURCES = ("ground_truth", "jittered", "detections", "proposals")
WEIGHTINGS = ("uniform", "score", "size")
#: Key of the weights among the extras of regions.
WEIGHTS = "weights"
#: Boxes with a shorter side, in original pixels, show nothing that could be learned.
SHORTEST_SIDE = 1.0
#: A proposal is one of an object when it overlaps a true box by at least this, as for a mask head.
FOREGROUND_IOU = 0.5
#: Boxes that a network found are rounded to this part of a pixel: its last bits depend on what shares its batch, and
#: would let nothing be found again in the cache of a teacher.
FOUND_STEP = 0.25


@dataclass(frozen=True)
class RegionSampling:
    """The boxes of a photo that a student is to describe as its teacher does, and what each of them counts.

    Whatever is random depends on the seed, the name of the photo and the number of a *variant*, and on nothing else.
    With few variants a teacher has few boxes to describe, which it can keep.

    Attributes:
        sources: Some of ``ground_truth``: the true boxes; ``jittered``: the true boxes, moved and stretched;
            ``detections``: what the detector finds; ``proposals``: what its proposal network finds and overlaps a true
            box by at least one half, the boxes that a mask head learns from (He et al., "Mask R-CNN", 2017).
        whole_image: Whether the whole image is a box as well.
        jitter: Strength of ``jittered``, see :func:`objemb.training.augment.jitter_boxes`.
        variants: How many different draws there are for each photo.
        max_boxes: Maximum number of boxes per photo, drawn from all of them, the whole image not counted.
        weighting: What a box counts: ``uniform``: 1; ``score``: its score, which is 1 for true boxes; ``size``: the
            square root of its share of the image.
        whole_weight: What the whole image counts instead.
        seed: Of all draws.
    """

    sources: tuple[str, ...] = ("ground_truth",)
    whole_image: bool = True
    jitter: float = 0.1
    variants: int = 8
    max_boxes: int = 32
    weighting: str = "uniform"
    whole_weight: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for source in checks.several("sources", self.sources):
            checks.one_of("sources", source, SOURCES)
        checks.flag("whole_image", self.whole_image)
        checks.between("jitter", self.jitter, 0, 1)
        checks.whole("variants", self.variants)
        checks.whole("max_boxes", self.max_boxes)
        checks.one_of("weighting", self.weighting, WEIGHTINGS)
        checks.between("whole_weight", self.whole_weight, 0, 1e6)

    @property
    def needs_detector(self) -> bool:
        """Whether boxes come from the detector."""
        return bool({"detections", "proposals"} & set(self.sources))

    def regions(
        self, photo: str, truth: Regions, variant: int = 0, *, detections: Regions | None, proposals: Regions | None
    ) -> Regions:
        """The boxes to learn from in one photo.

        Args:
            photo: Its name.
            truth: True boxes in original pixels.
            variant: Number of the draw.
            detections: What the detector finds; needed for that source only.
            proposals: What the proposal network finds; likewise.

        Returns:
            Boxes float32 ``(N, 4)``, xyxy in original pixels, with scores and ``extras["weights"]``, float32 ``(N,)``;
            where ``whole_image`` is set, the whole image is the last. Boxes with a side below a pixel are left out.

        Raises:
            ValueError: A source of which nothing was given.
        """
        rng = generator("guidance", self.seed, photo, variant)
        moved = jitter_boxes(truth, self.jitter, torch.Generator().manual_seed(int(rng.integers(2**62))))
        known = {"ground_truth": truth, "jittered": moved, "detections": detections, "proposals": proposals}
        parts = []
        for source in self.sources:
            of_source = known[source]
            if of_source is None:
                raise ValueError(f"guidance: expected {source} of {photo!r}, found none")
            if source == "proposals":
                of_source = _foreground(of_source, truth)
            parts.append(_rounded(of_source) if source in ("detections", "proposals") else bare(of_source))
        boxes = _drawn(rng, visible(Regions.cat(parts)), self.max_boxes)
        return self._weighted(boxes)

    def _weighted(self, boxes: Regions) -> Regions:
        height, width = boxes.size
        weights = {
            "uniform": np.ones(len(boxes), np.float32),
            "score": boxes.scores,
            "size": np.sqrt(area(as_tensor(boxes.boxes)).numpy() / (height * width)),
        }[self.weighting]
        if self.whole_image:
            boxes = Regions.cat([boxes, Regions.whole(boxes.size)])
            weights = np.append(weights, np.float32(self.whole_weight))
        return Regions(boxes.boxes, boxes.size, boxes.scores, extras={WEIGHTS: weights})


def region_weights(regions: Sequence[Regions]) -> Tensor:
    """float32 ``(sum of N,)``: what the boxes of :meth:`RegionSampling.regions` count."""
    return torch.cat([as_tensor(weights) for r in regions if (weights := r.array(WEIGHTS)) is not None])


def bare(regions: Regions) -> Regions:
    """Boxes and scores, without what differs between the sources."""
    return Regions(regions.boxes, regions.size, regions.scores)


def visible(regions: Regions) -> Regions:
    """The boxes that show something: both sides have at least a pixel."""
    sides = regions.boxes[:, 2:] - regions.boxes[:, :2]
    return regions[(sides >= SHORTEST_SIDE).all(axis=1)]


def _rounded(regions: Regions) -> Regions:
    boxes = clip((as_tensor(regions.boxes) / FOUND_STEP).round() * FOUND_STEP, regions.size)
    return Regions(boxes, regions.size, regions.scores)


def _foreground(proposals: Regions, truth: Regions) -> Regions:
    overlaps = iou(as_tensor(proposals.boxes), as_tensor(truth.boxes))
    best = overlaps.amax(dim=1) if len(truth) else torch.zeros(len(proposals))
    return proposals[best >= FOREGROUND_IOU]


def _drawn(rng: np.random.Generator, regions: Regions, most: int) -> Regions:
    if len(regions) <= most:
        return regions
    return regions[np.sort(rng.choice(len(regions), most, replace=False))]
