"""Sampling of the boxes that a student learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from objemb import checks
from objemb.datasets.seeds import generator
from objemb.ops.boxes import area, clip, iou
from objemb.ops.tensors import as_tensor
from objemb.structures import Regions
from objemb.training.augment import jitter_boxes

SOURCES = ("ground_truth", "jittered", "detections", "proposals")
WEIGHTINGS = ("uniform", "score", "size")
#: Key of the weights among the extras of regions.
WEIGHTS = "weights"
#: Minimum side of a box in original pixels; smaller boxes show nothing that could be learned.
SHORTEST_SIDE = 1.0
#: Minimum IoU with a ground-truth box for a proposal to be used, as for a mask head.
FOREGROUND_IOU = 0.5
#: Predicted boxes are rounded to this part of a pixel. Their last bits depend on the other photos of a batch, so that
#: without rounding a teacher's cache would never be hit.
FOUND_STEP = 0.25


@dataclass(frozen=True)
class RegionSampling:
    """Selects the boxes of a photo for which a student is trained to match its teacher, and their weights.

    Random choices depend only on the seed, the name of the photo and the number of a *variant*. With few variants the
    teacher describes few different boxes, so that its cache can hold them.

    Attributes:
        sources: One or more of ``ground_truth``; ``jittered``: ground-truth boxes, perturbed at random; ``detections``:
            boxes of the student's detector; ``proposals``: boxes of its proposal network with an IoU of at least 0.5
            with a ground-truth box, which a mask head is trained on (He et al., "Mask R-CNN", 2017).
        whole_image: Whether to add the whole image as a box.
        jitter: Strength of ``jittered``, see :func:`objemb.training.augment.jitter_boxes`.
        variants: Number of different random draws per photo.
        max_boxes: Maximum number of boxes per photo, drawn at random; the whole image is not counted.
        weighting: Weight of a box: ``uniform``: 1; ``score``: its score, which is 1 for ground truth; ``size``: the
            square root of its share of the image area.
        whole_weight: Weight of the whole image.
        seed: Seed of all random choices.
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
        """Whether any boxes come from the detector."""
        return bool({"detections", "proposals"} & set(self.sources))

    def regions(
        self, photo: str, truth: Regions, variant: int = 0, *, detections: Regions | None, proposals: Regions | None
    ) -> Regions:
        """Sample the boxes of one photo.

        Args:
            photo: Name of the photo.
            truth: Ground-truth boxes in original pixels.
            variant: Number of the draw.
            detections: Boxes of the detector; needed only for the source ``detections``.
            proposals: Boxes of the proposal network; needed only for the source ``proposals``.

        Returns:
            Boxes float32 ``(N, 4)``, xyxy in original pixels, with scores and ``extras["weights"]``, float32 ``(N,)``.
            With ``whole_image`` the last box is the whole image. Boxes with a side below a pixel are left out.

        Raises:
            ValueError: The boxes of a source were not given.
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
        boxes = _drawn(rng, visible_boxes(Regions.cat(parts)), self.max_boxes)
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
    """float32 ``(sum of N,)``: the weights of boxes from :meth:`RegionSampling.regions`, joined."""
    return torch.cat([as_tensor(weights) for r in regions if (weights := r.array(WEIGHTS)) is not None])


def bare(regions: Regions) -> Regions:
    """Boxes and scores only, which all sources have in common."""
    return Regions(regions.boxes, regions.size, regions.scores)


def visible_boxes(regions: Regions) -> Regions:
    """The boxes with both sides of at least a pixel."""
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
