from __future__ import annotations

import math

import numpy as np
import pytest

from objemb.ops.upper_tail import UpperTail, fit_upper_tail

BODY = (0.0, 0.2, 0.4)


def pareto(shape: float, size: int) -> np.ndarray:
    """A sample of the generalised Pareto distribution with scale 1, by the inverse of its distribution function."""
    uniform = np.random.default_rng(0).uniform(size=size)
    return -np.log(uniform) if shape == 0 else (uniform**-shape - 1) / shape


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.2])
def test_excesses_of_a_pareto_distribution_are_pareto_distributed(shape: float) -> None:
    """With the same shape, and the scale ``1 + shape * threshold`` (Coles 2001, section 4.2.2)."""
    fit = fit_upper_tail(pareto(shape, 200_000))
    assert fit.share == pytest.approx(0.2)
    assert fit.threshold == pytest.approx(math.log(5) if shape == 0 else (5**shape - 1) / shape, rel=0.02)
    assert fit.shape == pytest.approx(shape, abs=0.03)
    assert fit.scale == pytest.approx(1 + shape * fit.threshold, rel=0.03)


def test_l_moments_by_hand() -> None:
    """Of the excesses 0.5, 1.5, ..., 9.5: the mean is 5, the second L-moment 11/6, so k = 5 / (11/6) - 2 = 8/11."""
    fit = fit_upper_tail(np.concatenate([np.zeros(40) + 0.0, np.arange(1.0, 11)]))
    assert (fit.threshold, fit.share) == (0.5, 0.2)
    assert fit.shape == pytest.approx(-8 / 11)
    assert fit.scale == pytest.approx((1 + 8 / 11) * 5)


def test_the_largest_of_many_normal_values() -> None:
    values = np.random.default_rng(0).normal(size=(4000, 500)).max(axis=1)
    fit = fit_upper_tail(values)
    for limit in (2.6, 3.0, 3.4, 3.7190):  # in the body, and in the tail
        true = 1 - (1 - 0.5 * math.erfc(limit / math.sqrt(2))) ** 500
        assert fit.exceeded(limit) == pytest.approx(true, rel=0.15)


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.2])
def test_its_inverse(shape: float) -> None:
    fit = UpperTail(0.4, 0.25, 0.05, shape, BODY)
    for probability in (1e-3, 0.1, 0.25, 0.4, 0.9, 1.0):
        assert fit.exceeded(fit.value_of(probability)) == pytest.approx(probability)
    assert fit.value_of(0.25) == pytest.approx(0.4)
    assert fit.exceeded(0.2) == pytest.approx(0.25 + 0.75 / 2)
    assert fit.exceeded(-1) == 1
    assert fit.value_of(1) == 0


def test_beyond_its_end() -> None:
    assert UpperTail(0, 0.2, 1, -0.5, (-1.0, 0.0)).exceeded(2.1) == 0


def test_what_cannot_be_fitted() -> None:
    with pytest.raises(ValueError, match="values: expected at least 20, found 19"):
        fit_upper_tail(np.arange(19.0))
    with pytest.raises(ValueError, match="values: expected largest values that are not all equal, found 10 of 2"):
        fit_upper_tail(np.full(30, 2.0))
    with pytest.raises(ValueError, match="scale: expected a number above 0"):
        UpperTail(0, 0.2, 0, 0, BODY)
    with pytest.raises(ValueError, match="threshold: expected"):
        UpperTail(math.nan, 0.2, 1, 0, BODY)
    with pytest.raises(ValueError, match="body: expected at least two values that do not fall"):
        UpperTail(0, 0.2, 1, 0, (0.2, 0.1))
