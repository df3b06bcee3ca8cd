"""Convex hulls of points, and what lies in them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from objemb import checks


def convex_hull(points: Tensor) -> Tensor:
    """The corners of the smallest convex polygon around points.

    Args:
        points: float ``(N, 2)``, at least one.

    Returns:
        float32 ``(V, 2)``, one corner after the other around the polygon. One or two corners where all points are equal
        or lie on a line.

    Raises:
        ImportError: OpenCV is missing.
    """
    try:
        import cv2
    except ImportError as error:
        raise ImportError("convex hulls need OpenCV: pip install 'objemb[methods]'") from error
    checks.shape("points", points, (None, 2))
    if len(points) == 0:
        raise ValueError("points: expected at least one for a convex hull, found none")
    return torch.from_numpy(cv2.convexHull(points.float().contiguous().numpy()).reshape(-1, 2))


def in_hulls(points: Tensor, hulls: Sequence[Tensor]) -> Tensor:
    """Which points lie in which hulls, their borders included.

    Args:
        points: float ``(P, 2)``, or ``(M, P, 2)`` where each hull has points of its own.
        hulls: M polygons ``(V, 2)`` as :func:`convex_hull` gives them. Nothing lies in one without area.

    Returns:
        bool ``(M, P)``.
    """
    if not hulls:
        return torch.zeros(0, points.shape[-2], dtype=torch.bool)
    most = max(len(h) for h in hulls)
    # filled up with the first corner: an edge from a corner to itself has every point on its inner side
    corners = torch.stack([torch.cat([h, h[:1].expand(most - len(h), 2)]) for h in hulls]).double()
    edges = corners.roll(-1, dims=1) - corners
    signed_areas = _cross(corners, corners.roll(-1, dims=1)).sum(dim=1)
    offsets = points.double().expand(len(hulls), -1, 2)[:, :, None] - corners[:, None]
    inner = _cross(edges[:, None], offsets) * signed_areas.sign()[:, None, None] >= 0
    return inner.all(dim=2) & (signed_areas != 0)[:, None]


def _cross(first: Tensor, second: Tensor) -> Tensor:
    """z of the cross product of vectors ``(..., 2)``: above 0 where ``second`` turns from x towards y."""
    return first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]
