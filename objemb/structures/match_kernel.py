"""How the residuals of visual words are compared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from objemb import checks
from objemb.types import FloatArray


@dataclass(frozen=True)
class MatchKernel:
    """What visual words are, and the similarity of two residuals in the same word (Tolias, Avrithis and Jegou, "Image
    search with selective match kernels", IJCV 2016, equation 9).

    Attributes:
        words: Number of words that there are.
        binary: Whether residuals are signs.
        alpha: Exponent, from 0 on.
        tau: Threshold, from -1 to 1.
        tau_inclusive: Whether a similarity of exactly ``tau`` counts.
        positions: Whether the places of local features are kept, see :class:`~objemb.structures.WordPlaces`.

    Raises:
        ValueError, TypeError: A number that is out of these bounds, or none.
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
        """``sign(u) |u|^alpha`` of each inner product u above ``tau``, and 0 of the others."""
        above = similarities >= self.tau if self.tau_inclusive else similarities > self.tau
        raised = np.sign(similarities) * np.abs(similarities) ** self.alpha
        selected: FloatArray = np.where(above, raised, 0).astype(similarities.dtype)
        return selected
