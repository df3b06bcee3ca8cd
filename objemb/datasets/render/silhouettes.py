"""Eight outlines of packages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from objemb.types import Float64Array


@dataclass(frozen=True)
class Silhouette:
    """An outline that is symmetric about its vertical axis.

    Attributes:
        aspect: Width divided by height.
        profile: Pairs of a height, from 0 (top) to 1 (bottom), and the half width there as a fraction of the maximum;
            linear in between.
        body: Top and bottom of the printed part, as fractions of the height.
        cap: Top and bottom of the lid or cap, or None.
        round: Whether it is a solid of revolution, which is shaded darker towards both sides.
    """

    aspect: float
    profile: tuple[tuple[float, float], ...]
    body: tuple[float, float]
    cap: tuple[float, float] | None
    round: bool

    def half_widths(self, heights: Float64Array) -> Float64Array:
        """The half widths at heights from 0 to 1, as fractions of the maximum."""
        knots = np.array(self.profile)
        widths: Float64Array = np.interp(heights, knots[:, 0], knots[:, 1])
        return widths


_CARTON = ((0.0, 0.97), (0.02, 1.0), (0.98, 1.0), (1.0, 0.97))
_BOTTLE = (
    *((0.0, 0.38), (0.11, 0.38), (0.115, 0.31), (0.2, 0.32), (0.27, 0.42), (0.34, 0.68), (0.4, 0.88), (0.46, 0.98)),
    *((0.5, 1.0), (0.96, 1.0), (0.985, 0.96), (1.0, 0.88)),
)
_CAN = ((0.0, 0.82), (0.02, 0.9), (0.06, 1.0), (0.94, 1.0), (0.98, 0.92), (1.0, 0.84))
_JAR = (
    *((0.0, 0.8), (0.015, 0.84), (0.17, 0.84), (0.175, 0.77), (0.21, 0.78), (0.27, 0.92), (0.33, 1.0)),
    *((0.94, 1.0), (0.975, 0.95), (1.0, 0.86)),
)
_POUCH = (
    *((0.0, 0.9), (0.07, 0.92), (0.075, 0.87), (0.2, 0.84), (0.5, 0.92), (0.75, 1.0)),
    *((0.9, 0.97), (0.96, 0.94), (1.0, 0.98)),
)
_TUBE = ((0.0, 1.0), (0.07, 1.0), (0.5, 0.93), (0.74, 0.8), (0.8, 0.64), (0.83, 0.5), (0.835, 0.56), (1.0, 0.5))
_CUP = ((0.0, 0.98), (0.02, 1.0), (0.085, 1.0), (0.09, 0.93), (0.95, 0.72), (0.98, 0.7), (1.0, 0.64))

SILHOUETTES: Mapping[str, Silhouette] = MappingProxyType(
    {
        "carton": Silhouette(0.66, _CARTON, (0.05, 0.95), None, round=False),
        "packet": Silhouette(1.4, _CARTON, (0.06, 0.94), None, round=False),
        "bottle": Silhouette(0.37, _BOTTLE, (0.46, 0.93), (0.0, 0.11), round=True),
        "can": Silhouette(0.6, _CAN, (0.09, 0.91), (0.0, 0.04), round=True),
        "jar": Silhouette(0.76, _JAR, (0.32, 0.93), (0.0, 0.17), round=True),
        "pouch": Silhouette(0.74, _POUCH, (0.14, 0.88), (0.0, 0.07), round=False),
        "tube": Silhouette(0.4, _TUBE, (0.09, 0.72), (0.83, 1.0), round=True),
        "cup": Silhouette(0.92, _CUP, (0.16, 0.9), (0.0, 0.085), round=True),
    }
)
