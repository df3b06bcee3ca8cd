from __future__ import annotations

import pytest
import torch
from torch import Tensor

from objemb.checks import NotFittedError, ObjembError
from objemb.layers.fitted import Fitted


class Middle(Fitted):
    middle: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("middle", torch.zeros(2))

    def learn(self, vectors: Tensor) -> None:
        if len(vectors) < 2:
            raise ValueError("middle: expected two vectors")
        self.middle.copy_(vectors.mean(dim=0))


def test_learns_and_remembers_what_from() -> None:
    part = Middle()
    assert not part.is_fitted
    part.fit(torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64), fitted_on="two points")
    part.check_fitted()
    assert part.middle.tolist() == [2, 3]
    assert part.settings() == {"fitted_on": "two points", "count": 2}


def test_the_state_says_that_it_was_fitted() -> None:
    part, copy = Middle(), Middle()
    part.fit(torch.ones(3, 2), fitted_on="ones")
    copy.load_state_dict(part.state_dict())
    assert copy.is_fitted
    assert copy.middle.tolist() == [1, 1]


def test_a_fresh_one_says_what_to_do() -> None:
    with pytest.raises(
        NotFittedError, match="Middle: expected a fitted part, found an unfitted one; add --fit-on PHOTOS"
    ) as caught:
        Middle().check_fitted()
    assert isinstance(caught.value, ObjembError)


def test_a_failed_fit_leaves_it_fresh() -> None:
    part = Middle()
    with pytest.raises(ValueError, match="expected two vectors"):
        part.fit(torch.ones(1, 2), fitted_on="one")
    assert not part.is_fitted


def test_refuses_what_nothing_can_be_learned_from() -> None:
    with pytest.raises(ValueError, match="Middle: expected vectors to learn from, found none"):
        Middle().fit(torch.zeros(0, 2), fitted_on="nothing")
    with pytest.raises(ValueError, match="expected finite values, found 1 NaN"):
        Middle().fit(torch.tensor([[1.0, float("nan")]]), fitted_on="x")
    with pytest.raises(ValueError, match=r"vectors: expected shape \(any, any\)"):
        Middle().fit(torch.zeros(2), fitted_on="x")
    with pytest.raises(ValueError, match="fitted_on: expected a description"):
        Middle().fit(torch.ones(2, 2), fitted_on="")
