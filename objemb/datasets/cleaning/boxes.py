"""Where the common object of a class is in each of its photos.

After Gordo et al., "Deep image retrieval: learning global representations for image search", ECCV 2016, section 3.3:
boxes around the features that agree, merged by a geometric median, then propagated along the edges of the graph through
the affine maps. The paper gives neither the shape of a box that was mapped nor a stopping rule; those here are
objemb's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from objemb.datasets.cleaning.pairs import VerifiedPairs
from objemb.types import Float32Array, Float64Array, Int64Array

#: Share of the way that a box moves in a round; the update step of the paper.
STEP = 0.1
#: Propagation ends when no edge of any box moves by more than this share of the photo's longest side in a round ...
STILL = 1e-3
#: ... or after this many rounds, where the maps of a cycle of photos contradict each other.
ROUNDS = 200
#: Steps of Weiszfeld's iteration for a geometric median, and the distance in pixels below which a box counts as met.
MEDIAN_STEPS, MET = 20, 1e-3


@dataclass(frozen=True, eq=False)
class ObjectBoxes:
    """The boxes of a class.

    Attributes:
        boxes: float32 ``(N, 4)``, xyxy in original pixels; the whole photo where it has no pair.
        start: float32 ``(N, 4)``: the boxes before propagation.
        rounds: Number of rounds of propagation.
        settled: Whether they changed no more at the end.
    """

    boxes: Float32Array
    start: Float32Array
    rounds: int
    settled: bool


def object_boxes(sizes: Int64Array, pairs: VerifiedPairs) -> ObjectBoxes:
    """Boxes of the photos of a class.

    A photo's box starts as the geometric median of the boxes of its pairs, weighted by their inliers. In each round the
    boxes of its neighbours are taken through the affine maps, their geometric median (weighted likewise) is formed, and
    the box moves a tenth of the way towards it, clipped to the photo.

    Args:
        sizes: int64 ``(N, 2)``: height and width of the photos.
        pairs: Pairs of these photos.
    """
    limits = sizes[:, [1, 0, 1, 0]].astype(np.float64)
    whole = np.concatenate([np.zeros((len(sizes), 2)), limits[:, 2:]], axis=1)
    # each pair in both directions: from ``sources`` to ``targets``
    sources = np.concatenate([pairs.photos[:, 0], pairs.photos[:, 1]])
    targets = np.concatenate([pairs.photos[:, 1], pairs.photos[:, 0]])
    order = np.argsort(targets, kind="stable")
    weights = np.concatenate([pairs.inliers, pairs.inliers]).astype(np.float64)[order]
    maps = np.concatenate([pairs.affines, _inverse(pairs.affines)])[order]
    around = np.concatenate([pairs.boxes[:, 1], pairs.boxes[:, 0]]).astype(np.float64)[order]
    sources, targets = sources[order], targets[order]
    known, first = np.unique(targets, return_index=True)
    boxes = whole.copy()
    if not len(known):
        return ObjectBoxes(boxes.astype(np.float32), boxes.astype(np.float32), 0, True)
    boxes[known] = geometric_medians(around, weights, first)
    start, longest = boxes.copy(), sizes[known].max(axis=1, keepdims=True)
    for done in range(1, ROUNDS + 1):
        before = boxes[known]
        mapped = np.clip(mapped_boxes(boxes[sources], maps), 0, limits[targets])
        boxes[known] = before + STEP * (geometric_medians(mapped, weights, first) - before)
        if (np.abs(boxes[known] - before) <= STILL * STEP * longest).all():
            return ObjectBoxes(boxes.astype(np.float32), start.astype(np.float32), done, True)
    return ObjectBoxes(boxes.astype(np.float32), start.astype(np.float32), ROUNDS, False)


def mapped_boxes(boxes: Float64Array, maps: Float64Array) -> Float64Array:
    """Boxes taken through affine maps, as upright boxes of the same centre and the same spread along both axes.

    A box becomes a parallelogram. The upright box around it would grow with every map that turns, there and back; the
    one whose variances along x and y are those of the parallelogram does not. With half sides h, k and the linear part
    ``((a, b), (c, d))`` its half sides are ``sqrt(a^2 h^2 + b^2 k^2)`` and ``sqrt(c^2 h^2 + d^2 k^2)``.

    Args:
        boxes: float64 ``(E, 4)``, xyxy.
        maps: float64 ``(E, 2, 3)``.
    """
    centres, halves = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    linear = maps[:, :, :2]
    centres = (linear @ centres[:, :, None])[:, :, 0] + maps[:, :, 2]
    halves = np.sqrt((linear**2 @ (halves**2)[:, :, None])[:, :, 0])
    return np.concatenate([centres - halves, centres + halves], axis=1)


def geometric_medians(points: Float64Array, weights: Float64Array, first: Int64Array) -> Float64Array:
    """The weighted geometric median of each group of points: least sum of weighted distances.

    Weiszfeld's iteration, from the weighted mean. A single outlier hardly moves it, unlike a mean.

    Args:
        points: float64 ``(E, D)``, the groups one after the other.
        weights: float64 ``(E,)``, above 0.
        first: int64 ``(G,)``: the first row of each group, from 0.

    Returns:
        float64 ``(G, D)``.
    """
    group = np.repeat(np.arange(len(first)), np.diff(np.append(first, len(points))))

    def means(share: Float64Array) -> Float64Array:
        return np.add.reduceat(points * share[:, None], first) / np.add.reduceat(share, first)[:, None]

    medians = means(weights)
    for _ in range(MEDIAN_STEPS):
        distances = np.linalg.norm(points - medians[group], axis=1)
        medians = means(weights / np.maximum(distances, MET))
    return medians


def _inverse(maps: Float64Array) -> Float64Array:
    """Affine maps in the other direction, ``(E, 2, 3)``."""
    linear = np.linalg.inv(maps[:, :, :2])
    return np.concatenate([linear, -(linear @ maps[:, :, 2:])], axis=2)
