from __future__ import annotations

import numpy as np
import pytest

from objemb.structures import MatchKernel
from tests import slow_words as slow

VALUES = np.array([-1, -0.5, 0, 0.25, 0.5, 1])


@pytest.mark.parametrize("inclusive", [False, True])
@pytest.mark.parametrize("tau", [-1, 0, 0.25])
@pytest.mark.parametrize("alpha", [0, 1, 3])
def test_sigma(alpha: float, tau: float, inclusive: bool) -> None:
    kernel = MatchKernel(words=2, alpha=alpha, tau=tau, tau_inclusive=inclusive)
    expected = [slow.sigma(u, alpha, tau, inclusive) for u in VALUES.tolist() if u or alpha]
    found = kernel.sigma(VALUES if alpha else VALUES[VALUES != 0])
    np.testing.assert_allclose(found, expected)
    assert kernel.sigma(VALUES.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"words": 1}, "words: expected .* found 1"),
        ({"alpha": -1}, "alpha: expected a number from 0 to 100, found -1"),
        ({"tau": 2}, "tau: expected a number from -1 to 1, found 2"),
        ({"binary": "yes"}, "binary: expected true or false, found 'yes'"),
    ],
)
def test_what_is_no_kernel(wrong: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        MatchKernel(**{"words": 2, **wrong})  # type: ignore[arg-type]
