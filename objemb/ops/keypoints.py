"""Key points of an image, by OpenCV: where there is a corner or a blob."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from objemb import checks

#: ``hessian``: maxima of the determinant of the Hessian over place and scale, where Hessian-affine points lie as well
#: (only their shapes are affine, which OpenCV does not offer to Python); in builds with the non-free modules only.
#: ``sift``: extrema of the difference of Gaussians, in every build.
DETECTORS = ("hessian", "sift")


def best_detector() -> str:
    """The first of :data:`DETECTORS` that this machine's OpenCV has."""
    return "hessian" if _has_hessian() else "sift"


def key_points(pixels: Tensor, detector: str) -> Tensor:
    """Places of key points.

    Args:
        pixels: uint8 ``(3, h, w)``, RGB.
        detector: One of :data:`DETECTORS`.

    Returns:
        float32 ``(N, 2)``: x and y in pixels, where the first pixel spans 0 to 1. A plain image has none; a place at
        which the detector finds several scales occurs once.

    Raises:
        ImportError: OpenCV is missing, or was built without the detector.
    """
    checks.one_of("detector", detector, DETECTORS)
    cv2 = _cv2()
    grey = cv2.cvtColor(pixels.permute(1, 2, 0).cpu().contiguous().numpy(), cv2.COLOR_RGB2GRAY)
    found = _detector(detector).detect(grey, None)
    height, width = grey.shape
    # OpenCV puts 0 into the middle of the first pixel; refined places may lie a little beyond the last
    places = torch.tensor([p.pt for p in found], dtype=torch.float32).reshape(-1, 2) + 0.5
    return torch.minimum(places.clamp_min(0), places.new_tensor([width, height])).unique(dim=0)


def _detector(name: str) -> Any:
    cv2 = _cv2()
    if name == "sift":
        return cv2.SIFT_create()
    if not _has_hessian():
        raise ImportError("key points: expected an OpenCV with xfeatures2d and the non-free modules for 'hessian'")
    return cv2.xfeatures2d.SURF_create()


def _has_hessian() -> bool:
    try:
        cv2 = _cv2()
        cv2.xfeatures2d.SURF_create()
    except (ImportError, AttributeError):
        return False
    except cv2.error:  # there by name, but left out of the build
        return False
    return True


def _cv2() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise ImportError("key points need OpenCV: pip install 'objemb[methods]'") from error
    return cv2
