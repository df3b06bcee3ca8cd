"""Functions that use OpenCV: key points, SIFT features, affine maps by RANSAC, and convex hulls."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from objemb import checks
from objemb.structures import LocalFeatures
from objemb.types import BoolArray, Float32Array, Float64Array, Uint8Array

if TYPE_CHECKING:
    from cv2 import Feature2D

#: ``hessian``: maxima of the determinant of the Hessian over position and scale, as for Hessian-affine points (whose
#: affine shapes OpenCV does not offer in Python); only in builds with the non-free modules. ``sift``: extrema of the
#: difference of Gaussians, in every build.
DETECTORS = ("hessian", "sift")
#: RANSAC: maximum number of iterations, and the confidence at which it stops earlier.
TRIALS, CERTAINTY = 1000, 0.999
#: Length of SIFT vectors: 8 orientations in 4 x 4 parts.
SIFT_DIM = 128


def best_detector() -> str:
    """The first of :data:`DETECTORS` that the installed OpenCV has."""
    return "hessian" if _has_hessian() else "sift"


def key_points(pixels: Tensor, detector: str) -> Tensor:
    """Positions of key points.

    Args:
        pixels: uint8 ``(3, h, w)``, RGB.
        detector: One of :data:`DETECTORS`.

    Returns:
        float32 ``(N, 2)``: x and y in pixels, where the first pixel spans 0 to 1. An image of one colour has none; a
        position at which the detector finds several scales occurs once.

    Raises:
        ImportError: OpenCV is missing, or was built without the detector.
    """
    checks.one_of("detector", detector, DETECTORS)
    cv2 = _cv2("key points")
    grey = cv2.cvtColor(pixels.permute(1, 2, 0).cpu().contiguous().numpy(), cv2.COLOR_RGB2GRAY)
    detected = _detector(detector).detect(grey, None)
    height, width = grey.shape
    # OpenCV puts 0 into the middle of the first pixel; refined places may lie a little beyond the last
    places = torch.tensor([p.pt for p in detected], dtype=torch.float32).reshape(-1, 2) + 0.5
    distinct: Tensor = torch.minimum(places.clamp_min(0), places.new_tensor([width, height])).unique(dim=0)
    return distinct


def root_sift(grey: Uint8Array, size: tuple[int, int], count: int) -> LocalFeatures:
    """RootSIFT features (Arandjelovic and Zisserman, "Three things everyone should know to improve object retrieval",
    CVPR 2012).

    Args:
        grey: uint8 ``(h, w)``.
        size: ``(height, width)`` of the original photo.
        count: Maximum number of features, the strongest first.

    Returns:
        Vectors of unit length. The strength is the contrast at the point, the scale is that of the octave, and the side
        is that of the 4 x 4 histograms, each 3 times as wide as the scale of the point (Lowe 2004, section 6.1).

    Raises:
        ImportError: OpenCV is not installed.
    """
    sift = _cv2("local features").SIFT_create(nfeatures=count)
    points, vectors = sift.detectAndCompute(np.ascontiguousarray(grey), None)
    if vectors is None:
        return LocalFeatures.empty(size, SIFT_DIM)
    strengths = np.array([point.response for point in points], np.float32)
    strongest = np.argsort(-strengths, kind="stable")[:count]
    octaves = np.array([point.octave & 255 for point in points])[strongest]
    octaves = np.where(octaves < 128, octaves, octaves - 256)  # a signed byte: the first octave, -1, is enlarged
    shares = np.array([grey.shape[1] / size[1], grey.shape[0] / size[0]])
    # OpenCV puts 0 into the middle of the first pixel; refined places may lie a little beyond the last
    places = (np.array([point.pt for point in points])[strongest] + 0.5) / shares
    sums = vectors.sum(axis=1, keepdims=True)
    return LocalFeatures(
        size,
        np.clip(places, 0, [size[1], size[0]]),
        np.sqrt(vectors / np.maximum(sums, 1e-12))[strongest],
        scales=shares.mean() * 2.0**-octaves,
        sides=np.array([4 * 3 * point.size / 2 for point in points])[strongest] / shares.mean(),
        strengths=strengths[strongest],
    )


def agreeing(first: Float32Array, second: Float32Array, tolerance: float) -> tuple[Float64Array | None, BoolArray]:
    """The affine map with the most inliers among pairs of points, by RANSAC, and the inliers.

    The same points always give the same map, because OpenCV uses its own generator with a fixed seed.

    Args:
        first: ``(n, 2)``, n at least 3.
        second: ``(n, 2)``, the corresponding points.
        tolerance: Largest distance of an inlier from its mapped point, in pixels.

    Returns:
        float64 ``(2, 3)`` or None, and whether each pair is an inlier, bool ``(n,)``.

    Raises:
        ImportError: OpenCV is not installed.
    """
    cv2 = _cv2("local features")
    transform, inliers = cv2.estimateAffine2D(
        first, second, method=cv2.RANSAC, ransacReprojThreshold=tolerance, maxIters=TRIALS, confidence=CERTAINTY
    )
    return transform, np.zeros(len(first), bool) if transform is None else inliers.ravel().astype(bool)


def use_threads(count: int) -> None:
    """Let OpenCV use ``count`` threads in this process.

    Raises:
        ImportError: OpenCV is not installed.
    """
    _cv2("local features").setNumThreads(count)


def convex_hull(points: Tensor) -> Tensor:
    """The corners of the smallest convex polygon around points.

    Args:
        points: float ``(N, 2)``, at least one.

    Returns:
        float32 ``(V, 2)``, the corners in order around the polygon. One or two corners if all points are equal or on a
        line.

    Raises:
        ImportError: OpenCV is missing.
    """
    cv2 = _cv2("convex hulls")
    checks.shape("points", points, (None, 2))
    if len(points) == 0:
        raise ValueError("points: expected at least one for a convex hull, found none")
    return torch.from_numpy(cv2.convexHull(points.float().contiguous().numpy()).reshape(-1, 2))


def _detector(name: str) -> Feature2D:
    cv2 = _cv2("key points")
    if name == "sift":
        sift: Feature2D = cv2.SIFT_create()
        return sift
    if not _has_hessian():
        raise ImportError("key points: expected an OpenCV with xfeatures2d and the non-free modules for 'hessian'")
    surf: Feature2D = cv2.xfeatures2d.SURF_create()
    return surf


def _has_hessian() -> bool:
    try:
        cv2 = _cv2("key points")
        cv2.xfeatures2d.SURF_create()
    except (ImportError, AttributeError):
        return False
    except cv2.error:  # the name exists, but the algorithm is not part of the build
        return False
    return True


def _cv2(what: str) -> ModuleType:
    try:
        import cv2
    except ImportError as error:
        raise ImportError(f"{what} need OpenCV: pip install 'objemb[methods]'") from error
    return cv2
