from __future__ import annotations

import pytest
from torch import nn

from objemb.training.factors import by_factor


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))


def sizes(factors: dict[str, float]) -> dict[float, list[int]]:
    return {g["factor"]: [p.numel() for p in g["params"]] for g in by_factor(network(), factors)}


def test_the_last_pattern_that_fits_counts() -> None:
    assert sizes({}) == {1.0: [4, 2, 6, 3]}
    assert sizes({"*": 0.1, "1.*": 1}) == {0.1: [4, 2], 1.0: [6, 3]}
    assert sizes({"1.*": 1, "*": 0.1}) == {0.1: [4, 2, 6, 3]}
    assert sizes({"*": 0, "*.bias": 2}) == {2.0: [2, 3]}


def test_mistakes() -> None:
    with pytest.raises(ValueError, match=r"factors: expected patterns of '0.bias', .* found '2\.\*'"):
        sizes({"2.*": 1})
    with pytest.raises(ValueError, match=r"factors\['\*'\]: expected a number from 0"):
        sizes({"*": -1})
    with pytest.raises(ValueError, match="expected at least one parameter that is trained"):
        sizes({"*": 0})
