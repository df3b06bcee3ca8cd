"""The upper tail of a sample: how often values are expected beyond what was seen often."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from objemb import checks
from objemb.types import FloatArray

#: Shapes closer to 0 than this are computed as 0, the exponential distribution.
NO_SHAPE = 1e-6
#: Fraction of the largest values to which a tail is fitted.
TAIL = 0.2
#: Fewest values of a tail.
MIN_TAIL = 10


@dataclass(frozen=True)
class UpperTail:
    """A sample, as its largest values, and a generalised Pareto distribution of the excesses over a threshold.

    ``P(x >= value)`` is ``share * (1 + shape * (value - threshold) / scale)^(-1 / shape)`` above the threshold (Coles,
    "An introduction to statistical modeling of extreme values", 2001, equation 4.10); below it, where values are
    frequent, it is read from the quantiles of the sample.

    Attributes:
        threshold: The tail begins there.
        share: Fraction of the sample above the threshold.
        scale: Of the excesses, above 0.
        shape: Negative for a distribution that ends at ``threshold - scale / shape``.
        body: The quantiles 0, 1 / N, ..., 1 of the values up to the threshold: N + 1 values that do not fall.
    """

    threshold: float
    share: float
    scale: float
    shape: float
    body: tuple[float, ...]

    def __post_init__(self) -> None:
        checks.between("threshold", self.threshold, -math.inf, math.inf)
        checks.between("share", self.share, 0, 1)
        checks.positive("scale", self.scale)
        checks.between("shape", self.shape, -100, 100)
        body = tuple(checks.between("body", value, -math.inf, math.inf) for value in self.body)
        if len(body) < 2 or list(body) != sorted(body):
            raise ValueError(f"body: expected at least two values that do not fall, found {checks.short(self.body)}")
        object.__setattr__(self, "body", body)

    def exceeded(self, value: float) -> float:
        """The probability that a value of the distribution is at least ``value``."""
        if value < self.threshold:
            below = float(np.interp(value, self.body, np.linspace(0, 1, len(self.body))))
            return 1 - (1 - self.share) * below
        z = (value - self.threshold) / self.scale
        if abs(self.shape) < NO_SHAPE:
            return self.share * math.exp(-z)
        base = 1 + self.shape * z
        return self.share * math.exp(-math.log(base) / self.shape) if base > 0 else 0.0

    def value_of(self, probability: float) -> float:
        """The value that is reached with a probability above 0 and up to 1; the inverse of :meth:`exceeded`."""
        checks.positive("probability", probability)
        if probability > self.share:
            below = (1 - min(1.0, probability)) / (1 - self.share)
            return float(np.interp(below, np.linspace(0, 1, len(self.body)), self.body))
        rest = probability / self.share
        if abs(self.shape) < NO_SHAPE:
            return self.threshold - self.scale * math.log(rest)
        return self.threshold + self.scale * math.expm1(-self.shape * math.log(rest)) / self.shape


def fit_upper_tail(values: FloatArray, quantiles: int = 64) -> UpperTail:
    """Fit the tail of a sample: peaks over a threshold, with the L-moments of the excesses.

    Hosking and Wallis, "Parameter and quantile estimation for the generalized Pareto distribution", Technometrics
    1987, section 4.2 (their ``k`` is ``-shape``). The threshold lies between the largest fifth of the values, or the
    largest ten if these are more, and the others.

    Args:
        values: float ``(N,)``, N at least 20, of which the largest are not all equal.
        quantiles: Number of quantiles by which the values below the threshold are kept.
    """
    ordered = np.sort(checks.finite("values", checks.shape("values", values, (None,))).astype(np.float64))
    count = len(ordered)
    if count < 2 * MIN_TAIL:
        raise ValueError(f"values: expected at least {2 * MIN_TAIL}, found {count}")
    size = max(MIN_TAIL, round(TAIL * count))
    threshold = float(ordered[-size - 1] + ordered[-size]) / 2
    excesses = ordered[-size:] - threshold
    first = float(excesses.mean())
    second = 2 * float((np.arange(size) / (size - 1) * excesses).mean()) - first
    if not second > 1e-9 * max(1.0, abs(threshold)):
        raise ValueError(f"values: expected largest values that are not all equal, found {size} of {ordered[-1]:g}")
    k = first / second - 2
    body = np.quantile(np.append(ordered[:-size], threshold), np.linspace(0, 1, quantiles + 1))
    return UpperTail(threshold, size / count, (1 + k) * first, -k, tuple(body.tolist()))
