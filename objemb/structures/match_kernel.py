"""The kernel that compares the residuals of visual words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from objemb import checks
from objemb.types import FloatArray


@dataclass(frozen=True)
class MatchKernel:
    """The form of visual words, and the similarity of two residuals of the same word (Tolias, Avrithis and Jegou,
    "Image search with selective match kernels", IJCV 2016, equation 9).

    Attributes:
        words: Size of the codebook.
        binary: Whether residuals are stored as signs.
        alpha: Exponent, at least 0.
        tau: Threshold, from -1 to 1.
        tau_inclusive: Whether a similarity of exactly ``tau`` counts.
        positions: Whether the places of local features are stored, see :class:`~objemb.structures.WordPlaces`.

    Raises:
        ValueError, TypeError: A value is out of range or of the wrong type.
    """

    words: int
    binary: bool = True
    alpha: float = 3.0
    tau: float = 0.0
    tau_inclusive: bool = False
    positions: bool = False

    def __post_init__(self) -> None:
        checks.whole("words", self.words, least=2)
        checks.between("alpha", self.alpha, 0, 100)
        checks.between("tau", self.tau, -1, 1)
        for name in ("binary", "tau_inclusive", "positions"):
            checks.flag(name, getattr(self, name))

    def sigma(self, similarities: FloatArray) -> FloatArray:
        """``sign(u) |u|^alpha`` for each inner product u above ``tau``, and 0 for the others; same shape."""
        above = similarities >= self.tau if self.tau_inclusive else similarities > self.tau
        raised = np.sign(similarities) * np.abs(similarities) ** self.alpha
        selected: FloatArray = np.where(above, raised, 0).astype(similarities.dtype)
        return selected
